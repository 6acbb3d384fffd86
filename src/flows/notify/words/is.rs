//! Icelandic.

use super::{Cause, Matter, Words};

pub(super) const WORDS: Words = Words {
    attention: "Þarfnast athygli",
    to_correct: "Þarf að leiðrétta",
    next: "Næsta skref",
    details: "Nánar",
    see: "Sjá",
    not_issued: "ekki tókst að gefa út reikning",
    not_issued_fields: Cause {
        meaning: "Reikningakerfið hafnar upplýsingum um kaupanda eða línu.",
        next: "lagaðu reitina sem nefndir eru og gefðu reikninginn svo út aftur",
    },
    not_issued_data: Cause {
        meaning: "Reikningakerfið hafnar upplýsingum um kaupanda eða línu.",
        next: "skoðaðu hér að neðan hverju reikningakerfið svaraði, lagaðu upplýsingar um kaupanda eða línur og gefðu reikninginn svo út aftur",
    },
    not_issued_account: Cause {
        meaning: "Reikningakerfið hafnar aðgangsupplýsingum eða stillingum reikningsins.",
        next: "lagaðu aðgangsupplýsingar eða stillingar aðgangsins að reikningakerfinu og gefðu reikninginn svo út aftur",
    },
    not_issued_account_off: Cause {
        meaning: "Slökkt er á aðganginum að reikningakerfinu og enginn annar er virkur.",
        next: "kveiktu á aðgangi að reikningakerfinu og gefðu reikninginn svo út aftur",
    },
    not_issued_bug: Cause {
        meaning: "Reikningakerfið skildi ekki beiðnina.",
        next: "láttu framleiðendur kerfisins vita hverju reikningakerfið svaraði; hengdu á meðan við reikning sem gerður er í höndunum",
    },
    not_issued_absent: Cause {
        meaning: "Í reikningakerfið vantar eitthvað sem reikningurinn vísar til.",
        next: "bættu því við í reikningakerfinu sem þar vantar og gefðu reikninginn svo út aftur",
    },
    not_issued_unreachable: Cause {
        meaning: "Ekki náðist samband við reikningakerfið eða það gaf ekkert nothæft svar.",
        next: "athugaðu hvort reikningakerfið er í lagi og gefðu reikninginn svo út aftur",
    },
    invoice_unknown: Matter {
        title: "óvíst er hvort reikningur er til",
        cause: Cause {
            meaning: "Ekki tókst að komast að því hvort reikningurinn er til í reikningakerfinu; ekkert meira er sent þangað.",
            next: "leitaðu að reikningnum í reikningakerfinu; hengdu hann við eða gefðu hann út aftur",
        },
    },
    invoice_duplicate: Matter {
        title: "reikningur er til tvisvar",
        cause: Cause {
            meaning: "Í reikningakerfinu er fleiri en eitt skjal fyrir þessa greiðslu.",
            next: "ógiltu skjalið sem er ofaukið í reikningakerfinu",
        },
    },
    invoice_conflict: Matter {
        title: "skjal með annarri upphæð",
        cause: Cause {
            meaning: "Í reikningakerfinu er skjal fyrir þessa greiðslu með annarri upphæð eða í öðrum gjaldmiðli.",
            next: "berðu skjalið saman við greiðsluna og leiðréttu það í reikningakerfinu",
        },
    },
    invoice_issued_differs: Matter {
        title: "reikningur er ekki eins og pantað var",
        cause: Cause {
            meaning: "Reikningurinn var gefinn út, en ekki eins og pantað var; viðskiptavinurinn fær hann ekki.",
            next: "berðu skjalið saman við greiðsluna og leiðréttu það í reikningakerfinu",
        },
    },
    invoice_account: Matter {
        title: "reikningakerfið hafnar aðgangi",
        cause: Cause {
            meaning: "Reikningakerfið hafnar aðgangsupplýsingum eða stillingum aðgangsins; reikningar bíða.",
            next: "lagaðu aðgangsupplýsingarnar að reikningakerfinu; reikningar sem bíða fara svo sjálfkrafa af stað",
        },
    },
    invoice_unreachable: Matter {
        title: "reikningakerfið bilar",
        cause: Cause {
            meaning: "Reikningakerfið bregst hvað eftir annað; nýir reikningar bíða.",
            next: "athugaðu hvort reikningakerfið er í lagi; reikningar sem bíða fara svo sjálfkrafa af stað",
        },
    },
    invoice_ksef: Matter {
        title: "KSeF hafnaði reikningi",
        cause: Cause {
            meaning: "Pólska ríkiskerfið KSeF hafnaði reikningnum; viðskiptavinurinn fær hann ekki.",
            next: "skoðaðu í reikningakerfinu hverju KSeF svaraði um þennan reikning",
        },
    },
    invoice_pdf_missing: Matter {
        title: "ekki er hægt að sækja reikning",
        cause: Cause {
            meaning: "Reikningurinn hefur verið gefinn út en ekki tekst að fá PDF-skjal hans úr reikningakerfinu.",
            next: "sæktu skjalið í reikningakerfið og hengdu það við",
        },
    },
    invoice_to_correct: Matter {
        title: "leiðrétta þarf reikning",
        cause: Cause {
            meaning: "Fé af greiðslu sem reikningur var gefinn út fyrir var endurgreitt, svo leiðrétta þarf reikninginn.",
            next: "gefðu út leiðréttingarreikning í reikningakerfinu og lokaðu svo þessari ábendingu",
        },
    },
    payment_amount_mismatch: Matter {
        title: "önnur upphæð var greidd",
        cause: Cause {
            meaning: "Greiðslumiðlunin tilkynnir aðra upphæð eða annan gjaldmiðil en greiða átti; staða greiðslunnar breyttist ekki.",
            next: "endurgreiddu hjá greiðslumiðluninni eða semdu við viðskiptavininn; lokaðu svo þessu máli: þá er hægt að greiða aftur",
        },
    },
    payment_account_mismatch: Matter {
        title: "tilkynning fyrir annan aðgang",
        cause: Cause {
            meaning: "Tilkynning greiðslumiðlunarinnar um þessa greiðslu á við annan aðgang eða annan ham; staða greiðslunnar breyttist ekki.",
            next: "skoðaðu tilkynningu greiðslumiðlunarinnar; spurðu hana hvað var í raun greitt og endurgreiddu það eða byrjaðu nýja greiðslu",
        },
    },
    payment_double: Matter {
        title: "viðskiptavinur greiddi tvisvar",
        cause: Cause {
            meaning: "Fé barst umfram það sem þegar var greitt; endurgreiðsla er tilbúin og bíður staðfestingar.",
            next: "staðfestu endurgreiðsluna sem er tilbúin eða semdu við viðskiptavininn um annað",
        },
    },
    payment_late_success: Matter {
        title: "greiðsla barst seint",
        cause: Cause {
            meaning: "Fé barst fyrir greiðslu sem ekki var lengur búist við; greiðslunni er nú lokið.",
            next: "ekkert hefur tapast; láttu viðskiptavininn vita að greiðslan barst þrátt fyrir allt",
        },
    },
    payment_disputed: Matter {
        title: "viðskiptavinur andmælir greiðslu",
        cause: Cause {
            meaning: "Viðskiptavinurinn andmælir þessari greiðslu hjá bankanum eða greiðslumiðluninni.",
            next: "svaraðu andmælunum hjá greiðslumiðluninni áður en fresturinn rennur út",
        },
    },
    payment_dispute_lost: Matter {
        title: "andmæli töpuðust",
        cause: Cause {
            meaning: "Andmælin töpuðust: viðskiptavinurinn hefur fengið féð til baka.",
            next: "ekki endurgreiða þetta fé aftur; ákveddu hvort leiðrétta þurfi reikninginn og lokaðu svo málinu",
        },
    },
    payment_stuck: Matter {
        title: "greiðsla án niðurstöðu",
        cause: Cause {
            meaning: "Greiðslumiðlunin hefur allan þennan tíma ekki gefið endanlegt svar um þessa greiðslu.",
            next: "spurðu greiðslumiðlunina um þessa greiðslu",
        },
    },
    payment_failure_after_success: Matter {
        title: "mótsagnakenndar fréttir af greiðslu",
        cause: Cause {
            meaning: "Greiðslumiðlunin tilkynnir að greiðsla hafi mistekist sem hún hafði áður sagt greidda; greiðslan telst áfram greidd.",
            next: "skoðaðu tilkynninguna og spurðu greiðslumiðlunina",
        },
    },
    payment_unknown_status: Matter {
        title: "óþekkt staða greiðslu",
        cause: Cause {
            meaning: "Greiðslumiðlunin tilkynnir stöðu þessarar greiðslu sem ekki er þekkt hér; ekkert breyttist.",
            next: "skoðaðu tilkynninguna og spurðu greiðslumiðlunina",
        },
    },
    refund_failed: Matter {
        title: "endurgreiðsla mistókst",
        cause: Cause {
            meaning: "Endurgreiðslan fór ekki fram; féð er enn hér.",
            next: "féð er enn hér; pantaðu endurgreiðsluna aftur eða millifærðu féð",
        },
    },
    refund_conflict: Matter {
        title: "endurgreiðslu var hafnað",
        cause: Cause {
            meaning: "Greiðslumiðlunin hafnaði endurgreiðslu: féð hefur þegar verið endurgreitt eða er í andmælum.",
            next: "athugaðu fyrst hjá greiðslumiðluninni: það sem þar var endurgreitt eða andmæli tóku má ekki greiða aftur",
        },
    },
    refund_amount_mismatch: Matter {
        title: "endurgreiðsla með annarri upphæð",
        cause: Cause {
            meaning: "Greiðslumiðlunin tilkynnir endurgreiðslu sem stemmir ekki við skráningu; hún var ekki bókuð.",
            next: "skoðaðu tilkynninguna; spurðu greiðslumiðlunina hvað var í raun endurgreitt",
        },
    },
    refund_unknown: Matter {
        title: "óvíst er hvað varð um endurgreiðslu",
        cause: Cause {
            meaning: "Ekki tókst að komast að því hvort endurgreiðslan fór fram.",
            next: "áður en þú pantar endurgreiðsluna aftur skaltu spyrja greiðslumiðlunina hvort hún hafi þegar farið fram",
        },
    },
    event_unknown_attempt: Matter {
        title: "tilkynning um óþekkta greiðslu",
        cause: Cause {
            meaning: "Greiðslumiðlunin sendi ósvikna tilkynningu um greiðslu sem ekki er þekkt hér.",
            next: "skoðaðu tilkynninguna: var greiðslan hafin annars staðar með sama aðgangi?",
        },
    },
    event_unreadable: Matter {
        title: "tilkynning er ólæsileg",
        cause: Cause {
            meaning: "Greiðslumiðlunin sendi ósvikna tilkynningu sem ekki er hægt að lesa; hún er geymd.",
            next: "skoðaðu tilkynninguna; spurðu greiðslumiðlunina hvað hún merkir og sinntu greiðslunni í höndunum",
        },
    },
    provider_config: Matter {
        title: "greiðslumiðlun hafnar aðgangi",
        cause: Cause {
            meaning: "Greiðslumiðlunin hafnar aðgangsupplýsingunum; enginn getur greitt hjá henni.",
            next: "lagaðu stillingar aðgangsins að greiðslumiðluninni",
        },
    },
    provider_refused: Matter {
        title: "greiðslumiðlun tekur ekki við greiðslum",
        cause: Cause {
            meaning: "Greiðslumiðlunin neitar að hefja greiðslu; ef til vill getur enginn greitt með þessum aðgangi.",
            next: "kannaðu hverju greiðslumiðlunin hafnar: lagaðu aðganginn þar eða hér, eða byrjaðu greiðsluna á ný",
        },
    },
    endpoint_disabled: Matter {
        title: "forrit fær ekki lengur skilaboð",
        cause: Cause {
            meaning: "Slökkt var á slóð forrits því hún tók of lengi ekki við skilaboðum; ekkert meira er sent þangað.",
            next: "lagaðu slóðina og kveiktu á henni; senda má aftur skilaboð sem misfórust",
        },
    },
    message_exhausted: Matter {
        title: "forrit fékk ekki skilaboð",
        cause: Cause {
            meaning: "Slóð forrits tók ekki við skilaboðum og þau verða ekki send aftur af sjálfu sér.",
            next: "athugaðu hvers vegna slóðin hafnar skilaboðum, sendu það sem misfórst aftur með POST /v1/webhook-endpoints/{id}/replay og lokaðu svo þessari ábendingu",
        },
    },
    notice_undeliverable: Matter {
        title: "ekki er hægt að afhenda bréf",
        cause: Cause {
            meaning: "Póstþjónninn hafnar endanlega netfanginu sem bréf var sent á.",
            next: "lagaðu netfangið og sendu bréfið svo aftur með POST /v1/notices/{id}/resend",
        },
    },
    job_poison: Matter {
        title: "verk var lagt til hliðar",
        cause: Cause {
            meaning: "Verk kerfisins var hafið aftur og aftur en lauk aldrei; það var lagt til hliðar.",
            next: "athugaðu í kerfisskránni hvað stöðvaði verkið; POST /v1/jobs/{id}/retry heldur því svo áfram",
        },
    },
    other: Matter {
        title: "eitthvað sem þarf að skoða",
        cause: Cause {
            meaning: "Eitthvað kom upp sem einhver ætti að skoða.", next: "skoðaðu nánari upplýsingar"
        },
    },
};
