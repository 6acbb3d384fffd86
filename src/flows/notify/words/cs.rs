//! Czech.

use super::{Cause, Matter, Words};

pub(super) const WORDS: Words = Words {
    attention: "Vyžaduje pozornost",
    to_correct: "Co opravit",
    next: "Co dál",
    details: "Podrobnosti",
    see: "Více",
    not_issued: "fakturu se nepodařilo vystavit",
    not_issued_fields: Cause {
        meaning: "Fakturační systém odmítá údaje odběratele nebo položky.",
        next: "opravte uvedená pole a pak fakturu vystavte znovu",
    },
    not_issued_data: Cause {
        meaning: "Fakturační systém odmítá údaje odběratele nebo položky.",
        next: "podívejte se do podrobností, co fakturační systém odpověděl, opravte údaje odběratele nebo položky a pak fakturu vystavte znovu",
    },
    not_issued_account: Cause {
        meaning: "Fakturační systém odmítá přístupové údaje nebo nastavení účtu.",
        next: "opravte přístupové údaje nebo nastavení fakturačního účtu a pak fakturu vystavte znovu",
    },
    not_issued_account_off: Cause {
        meaning: "Fakturační účet je vypnutý a žádný jiný není zapnutý.",
        next: "zapněte fakturační účet a pak fakturu vystavte znovu",
    },
    not_issued_bug: Cause {
        meaning: "Fakturační systém požadavku neporozuměl.",
        next: "sdělte tvůrcům hubu, co fakturační systém odpověděl; zatím připojte fakturu vystavenou ručně",
    },
    not_issued_absent: Cause {
        meaning: "Ve fakturačním systému chybí něco, na co se faktura odvolává.",
        next: "doplňte ve fakturačním systému to, co tam chybí, a pak fakturu vystavte znovu",
    },
    not_issued_unreachable: Cause {
        meaning: "Fakturační systém nebyl dostupný nebo nedal srozumitelnou odpověď.",
        next: "ověřte, zda fakturační systém funguje, a pak fakturu vystavte znovu",
    },
    invoice_unknown: Matter {
        title: "není jisté, zda faktura existuje",
        cause: Cause {
            meaning: "Nepodařilo se zjistit, zda faktura ve fakturačním systému existuje; nic dalšího tam neposíláme.",
            next: "vyhledejte fakturu ve fakturačním systému; připojte ji, nebo ji vystavte znovu",
        },
    },
    invoice_duplicate: Matter {
        title: "faktura existuje dvakrát",
        cause: Cause {
            meaning: "Ve fakturačním systému je k této platbě více než jeden doklad.",
            next: "zrušte ve fakturačním systému přebytečný doklad",
        },
    },
    invoice_conflict: Matter {
        title: "doklad na jinou částku",
        cause: Cause {
            meaning: "Ve fakturačním systému je k této platbě doklad na jinou částku nebo v jiné měně.",
            next: "porovnejte doklad s platbou a opravte ho ve fakturačním systému",
        },
    },
    invoice_issued_differs: Matter {
        title: "faktura neodpovídá objednávce",
        cause: Cause {
            meaning: "Faktura byla vystavena, ale jinak, než byla objednána; klient ji nedostane.",
            next: "porovnejte doklad s platbou a opravte ho ve fakturačním systému",
        },
    },
    invoice_account: Matter {
        title: "fakturační systém odmítá přístup",
        cause: Cause {
            meaning: "Fakturační systém odmítá přístupové údaje nebo nastavení účtu; faktury čekají.",
            next: "opravte přístupové údaje fakturačního účtu; čekající faktury se pak vystaví samy",
        },
    },
    invoice_unreachable: Matter {
        title: "fakturační systém selhává",
        cause: Cause {
            meaning: "Fakturační systém opakovaně selhává; nové faktury čekají.",
            next: "ověřte, zda fakturační systém funguje; čekající faktury se pak vystaví samy",
        },
    },
    invoice_ksef: Matter {
        title: "KSeF fakturu odmítl",
        cause: Cause {
            meaning: "Polský státní systém KSeF fakturu odmítl; klient ji nedostane.",
            next: "zjistěte ve fakturačním systému, co KSeF k této faktuře odpověděl",
        },
    },
    invoice_pdf_missing: Matter {
        title: "fakturu nelze stáhnout",
        cause: Cause {
            meaning: "Faktura je vystavena, ale její PDF nelze z fakturačního systému získat.",
            next: "stáhněte doklad z fakturačního systému a připojte ho",
        },
    },
    invoice_to_correct: Matter {
        title: "fakturu je třeba opravit",
        cause: Cause {
            meaning: "Peníze z vyfakturované platby byly vráceny, fakturu je proto třeba opravit.",
            next: "vystavte ve fakturačním systému opravný doklad a pak upozornění uzavřete",
        },
    },
    payment_amount_mismatch: Matter {
        title: "byla zaplacena jiná částka",
        cause: Cause {
            meaning: "Platební brána hlásí jinou částku nebo měnu, než se mělo zaplatit; stav platby se nezměnil.",
            next: "vraťte peníze u platební brány, nebo se dohodněte s klientem; potom toto upozornění uzavřete: zaplatit bude možné znovu",
        },
    },
    payment_account_mismatch: Matter {
        title: "oznámení pro jiný účet",
        cause: Cause {
            meaning: "Oznámení brány o této platbě se týká jiného účtu nebo jiného režimu; stav platby se nezměnil.",
            next: "podívejte se na oznámení brány; zeptejte se jí, kolik bylo skutečně zaplaceno, a částku vraťte, nebo začněte novou platbu",
        },
    },
    payment_double: Matter {
        title: "klient zaplatil dvakrát",
        cause: Cause {
            meaning: "Přišly peníze navíc k tomu, co už bylo zaplaceno; vrácení je připraveno a čeká na potvrzení.",
            next: "potvrďte připravené vrácení, nebo se s klientem dohodněte jinak",
        },
    },
    payment_late_success: Matter {
        title: "platba dorazila později",
        cause: Cause {
            meaning: "Přišly peníze za platbu, se kterou se už nepočítalo; platba je nyní dokončena.",
            next: "nic se neztratilo; sdělte klientovi, že platba nakonec dorazila",
        },
    },
    payment_disputed: Matter {
        title: "klient platbu reklamuje",
        cause: Cause {
            meaning: "Klient tuto platbu reklamuje v bance nebo u platební brány.",
            next: "odpovězte na reklamaci u platební brány před uplynutím lhůty",
        },
    },
    payment_dispute_lost: Matter {
        title: "reklamace byla prohrána",
        cause: Cause {
            meaning: "Reklamace byla prohrána: klient má reklamované peníze zpět.",
            next: "nevracejte tyto peníze podruhé; rozhodněte, zda opravit fakturu, a potom upozornění uzavřete",
        },
    },
    payment_stuck: Matter {
        title: "platba bez výsledku",
        cause: Cause {
            meaning: "Platební brána za celou dobu nesdělila konečný výsledek této platby.",
            next: "zeptejte se platební brány na tuto platbu",
        },
    },
    payment_failure_after_success: Matter {
        title: "rozporné zprávy o platbě",
        cause: Cause {
            meaning: "Platební brána hlásí jako neúspěšnou platbu, kterou předtím ohlásila jako zaplacenou; platba zůstává dokončená.",
            next: "podívejte se na oznámení a zeptejte se platební brány",
        },
    },
    payment_unknown_status: Matter {
        title: "neznámý stav platby",
        cause: Cause {
            meaning: "Platební brána hlásí stav této platby, který hub nezná; nic se nezměnilo.",
            next: "podívejte se na oznámení a zeptejte se platební brány",
        },
    },
    refund_failed: Matter {
        title: "vrácení peněz se nezdařilo",
        cause: Cause {
            meaning: "Vrácení peněz neproběhlo; peníze jsou stále zde.",
            next: "peníze jsou stále zde; zadejte vrácení znovu, nebo je pošlete převodem",
        },
    },
    refund_conflict: Matter {
        title: "vrácení bylo odmítnuto",
        cause: Cause {
            meaning: "Platební brána odmítla vrácení: peníze už byly vráceny, nebo je zadržuje reklamace.",
            next: "nejprve se podívejte k platební bráně: co tam bylo vráceno nebo co odebrala reklamace, nevyplácejte znovu",
        },
    },
    refund_amount_mismatch: Matter {
        title: "vrácení jiné částky",
        cause: Cause {
            meaning: "Platební brána hlásí vrácení peněz, které neodpovídá záznamům; nebylo zaúčtováno.",
            next: "podívejte se na oznámení; zeptejte se platební brány, kolik bylo skutečně vráceno",
        },
    },
    refund_unknown: Matter {
        title: "není jisté, jak dopadlo vrácení peněz",
        cause: Cause {
            meaning: "Nepodařilo se zjistit, zda vrácení peněz proběhlo.",
            next: "než vrácení zadáte znovu, ověřte u platební brány, zda už neproběhlo",
        },
    },
    event_unknown_attempt: Matter {
        title: "oznámení o neznámé platbě",
        cause: Cause {
            meaning: "Platební brána poslala pravé oznámení o platbě, kterou hub nezná.",
            next: "podívejte se na oznámení: nebyla platba začata jinde se stejným účtem?",
        },
    },
    event_unreadable: Matter {
        title: "oznámení brány nelze přečíst",
        cause: Cause {
            meaning: "Platební brána poslala pravé oznámení, které nelze přečíst; je uloženo.",
            next: "podívejte se na oznámení; zeptejte se platební brány, co znamená, a platbu ověřte ručně",
        },
    },
    provider_config: Matter {
        title: "platební brána odmítá přístup",
        cause: Cause {
            meaning: "Platební brána odmítá přístupové údaje účtu; nikdo přes ni nemůže zaplatit.",
            next: "opravte nastavení účtu u platební brány",
        },
    },
    provider_refused: Matter {
        title: "platební brána odmítá platby",
        cause: Cause {
            meaning: "Platební brána odmítá zahájit platbu; přes tento účet možná nemůže zaplatit nikdo.",
            next: "zjistěte, co platební brána odmítá: opravte účet u ní nebo zde, nebo začněte platbu znovu",
        },
    },
    endpoint_disabled: Matter {
        title: "aplikace už nedostává zprávy",
        cause: Cause {
            meaning: "Adresa aplikace byla vypnuta, protože příliš dlouho nepřijímala zprávy; nic dalšího tam neposíláme.",
            next: "opravte adresu a zapněte ji; zmeškané zprávy lze poslat znovu",
        },
    },
    message_exhausted: Matter {
        title: "aplikace nedostala zprávu",
        cause: Cause {
            meaning: "Adresa aplikace nepřijala zprávu a sama se už znovu nepošle.",
            next: "zjistěte, proč adresa zprávy odmítá, pošlete zmeškané znovu přes POST /v1/webhook-endpoints/{id}/replay a pak upozornění uzavřete",
        },
    },
    notice_undeliverable: Matter {
        title: "dopis nelze doručit",
        cause: Cause {
            meaning: "Poštovní server trvale odmítá adresu, na kterou jsme poslali dopis.",
            next: "opravte adresu a pak dopis pošlete znovu přes POST /v1/notices/{id}/resend",
        },
    },
    job_poison: Matter {
        title: "odložená úloha",
        cause: Cause {
            meaning: "Úloha hubu byla mnohokrát zahájena a nikdy neskončila; byla odložena.",
            next: "zjistěte v protokolu, co ji přerušovalo; POST /v1/jobs/{id}/retry pak v práci pokračuje",
        },
    },
    other: Matter {
        title: "něco ke kontrole",
        cause: Cause {
            meaning: "Hub narazil na něco, na co by se měl někdo podívat.",
            next: "podívejte se na podrobnosti",
        },
    },
};
