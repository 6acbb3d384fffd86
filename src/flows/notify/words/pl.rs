//! Polish.

use super::{Cause, Matter, Words};

pub(super) const WORDS: Words = Words {
    attention: "Wymaga uwagi",
    to_correct: "Do poprawienia",
    next: "Co dalej",
    details: "Szczegóły",
    see: "Zobacz",
    not_issued: "nie udało się wystawić faktury",
    not_issued_fields: Cause {
        meaning: "System do faktur odrzuca dane nabywcy albo pozycji.",
        next: "popraw wskazane pola, a potem wystaw fakturę ponownie",
    },
    not_issued_data: Cause {
        meaning: "System do faktur odrzuca dane nabywcy albo pozycji.",
        next: "sprawdź w szczegółach, co odpowiedział system do faktur, popraw dane nabywcy albo pozycje, a potem wystaw fakturę ponownie",
    },
    not_issued_account: Cause {
        meaning: "System do faktur odrzuca dane dostępu albo ustawienia konta.",
        next: "popraw dane dostępu albo ustawienia konta w systemie do faktur, a potem wystaw fakturę ponownie",
    },
    not_issued_account_off: Cause {
        meaning: "Konto w systemie do faktur jest wyłączone, a żadne inne nie jest włączone.",
        next: "włącz konto w systemie do faktur, a potem wystaw fakturę ponownie",
    },
    not_issued_bug: Cause {
        meaning: "System do faktur nie zrozumiał żądania.",
        next: "przekaż twórcom huba odpowiedź systemu do faktur; tymczasem dołącz fakturę wystawioną ręcznie",
    },
    not_issued_absent: Cause {
        meaning: "W systemie do faktur brakuje czegoś, do czego faktura się odwołuje.",
        next: "uzupełnij w systemie do faktur to, czego tam brakuje, a potem wystaw fakturę ponownie",
    },
    not_issued_unreachable: Cause {
        meaning: "System do faktur był nieosiągalny albo nie dał zrozumiałej odpowiedzi.",
        next: "sprawdź, czy system do faktur działa, a potem wystaw fakturę ponownie",
    },
    invoice_unknown: Matter {
        title: "nie wiadomo, czy faktura istnieje",
        cause: Cause {
            meaning: "Nie udało się ustalić, czy faktura istnieje w systemie do faktur; nic więcej tam nie wysyłamy.",
            next: "sprawdź w systemie do faktur, czy faktura powstała; dołącz ją albo wystaw ponownie",
        },
    },
    invoice_duplicate: Matter {
        title: "faktura istnieje podwójnie",
        cause: Cause {
            meaning: "W systemie do faktur jest więcej niż jeden dokument do tej płatności.",
            next: "anuluj zbędny dokument w systemie do faktur",
        },
    },
    invoice_conflict: Matter {
        title: "dokument na inną kwotę",
        cause: Cause {
            meaning: "W systemie do faktur jest dokument do tej płatności na inną kwotę albo w innej walucie.",
            next: "porównaj dokument z płatnością i popraw go w systemie do faktur",
        },
    },
    invoice_issued_differs: Matter {
        title: "faktura różni się od zamówionej",
        cause: Cause {
            meaning: "Fakturę wystawiono, ale inaczej, niż zamówiono; klient jej nie dostaje.",
            next: "porównaj dokument z płatnością i popraw go w systemie do faktur",
        },
    },
    invoice_account: Matter {
        title: "system do faktur odmawia dostępu",
        cause: Cause {
            meaning: "System do faktur odrzuca dane dostępu albo ustawienia konta; faktury czekają.",
            next: "popraw dane dostępu do systemu do faktur; czekające faktury ruszą same",
        },
    },
    invoice_unreachable: Matter {
        title: "system do faktur nie działa",
        cause: Cause {
            meaning: "System do faktur zawodzi raz za razem; nowe faktury czekają.",
            next: "sprawdź, czy system do faktur działa; czekające faktury ruszą same",
        },
    },
    invoice_ksef: Matter {
        title: "KSeF odrzucił fakturę",
        cause: Cause {
            meaning: "KSeF odrzucił fakturę; klient jej nie dostaje.",
            next: "sprawdź w systemie do faktur, co odpowiedział KSeF",
        },
    },
    invoice_pdf_missing: Matter {
        title: "nie można pobrać faktury",
        cause: Cause {
            meaning: "Faktura jest wystawiona, ale nie można pobrać jej pliku PDF z systemu do faktur.",
            next: "pobierz dokument z systemu do faktur i dołącz go do sprawy",
        },
    },
    invoice_to_correct: Matter {
        title: "trzeba skorygować fakturę",
        cause: Cause {
            meaning: "Zwrócono pieniądze z płatności, do której wystawiono fakturę, więc trzeba ją skorygować.",
            next: "wystaw fakturę korygującą w systemie do faktur, a potem zamknij to zgłoszenie",
        },
    },
    payment_amount_mismatch: Matter {
        title: "wpłacono inną kwotę",
        cause: Cause {
            meaning: "Operator płatności podaje inną kwotę albo walutę, niż była do zapłaty; stan płatności się nie zmienił.",
            next: "zwróć wpłatę u operatora płatności albo umów się z klientem; potem zamknij to zgłoszenie: można będzie zapłacić ponownie",
        },
    },
    payment_account_mismatch: Matter {
        title: "powiadomienie dla innego konta",
        cause: Cause {
            meaning: "Powiadomienie operatora o tej płatności dotyczy innego konta albo innego trybu; stan płatności się nie zmienił.",
            next: "obejrzyj powiadomienie operatora; zapytaj go, ile naprawdę wpłacono, i zwróć wpłatę albo zacznij nową płatność",
        },
    },
    payment_double: Matter {
        title: "klient zapłacił dwa razy",
        cause: Cause {
            meaning: "Przyszły pieniądze ponad to, co już zapłacono; zwrot jest przygotowany i czeka na potwierdzenie.",
            next: "potwierdź przygotowany zwrot albo umów się z klientem inaczej",
        },
    },
    payment_late_success: Matter {
        title: "płatność doszła później",
        cause: Cause {
            meaning: "Przyszły pieniądze za płatność, której już nie oczekiwano; płatność jest teraz zrealizowana.",
            next: "nic nie zginęło; powiedz klientowi, że płatność jednak doszła",
        },
    },
    payment_disputed: Matter {
        title: "klient reklamuje płatność",
        cause: Cause {
            meaning: "Klient zareklamował tę płatność w banku albo u operatora płatności.",
            next: "odpowiedz na reklamację u operatora płatności przed jej terminem",
        },
    },
    payment_dispute_lost: Matter {
        title: "reklamacja została przegrana",
        cause: Cause {
            meaning: "Reklamacja została przegrana: klient ma z powrotem reklamowane pieniądze.",
            next: "nie zwracaj tych pieniędzy drugi raz; zdecyduj, czy skorygować fakturę, a potem zamknij to zgłoszenie",
        },
    },
    payment_stuck: Matter {
        title: "płatność bez rozstrzygnięcia",
        cause: Cause {
            meaning: "Operator płatności przez cały ten czas nie podał ostatecznego wyniku tej płatności.",
            next: "zapytaj operatora płatności o tę płatność",
        },
    },
    payment_failure_after_success: Matter {
        title: "sprzeczne wiadomości o płatności",
        cause: Cause {
            meaning: "Operator płatności podaje jako nieudaną płatność, którą wcześniej podał jako zapłaconą; pozostaje zrealizowana.",
            next: "obejrzyj powiadomienie i zapytaj operatora płatności",
        },
    },
    payment_unknown_status: Matter {
        title: "nieznany stan płatności",
        cause: Cause {
            meaning: "Operator płatności podaje stan tej płatności, którego hub nie zna; nic się nie zmieniło.",
            next: "obejrzyj powiadomienie i zapytaj operatora płatności",
        },
    },
    refund_failed: Matter {
        title: "zwrot się nie udał",
        cause: Cause {
            meaning: "Zwrot nie doszedł do skutku; pieniądze są nadal tutaj.",
            next: "pieniądze są nadal tutaj; zleć zwrot ponownie albo oddaj je przelewem",
        },
    },
    refund_conflict: Matter {
        title: "operator odmówił zwrotu",
        cause: Cause {
            meaning: "Operator płatności odmówił zwrotu: pieniądze już oddano albo zatrzymała je reklamacja.",
            next: "najpierw sprawdź u operatora płatności, co już zwrócono lub zabrała reklamacja; nie oddawaj tego drugi raz",
        },
    },
    refund_amount_mismatch: Matter {
        title: "zwrot na inną kwotę",
        cause: Cause {
            meaning: "Operator płatności podaje zwrot, który nie zgadza się z zapisami; nie został zaksięgowany.",
            next: "obejrzyj powiadomienie; zapytaj operatora płatności, ile naprawdę zwrócono",
        },
    },
    refund_unknown: Matter {
        title: "nie wiadomo, co się stało ze zwrotem",
        cause: Cause {
            meaning: "Nie udało się ustalić, czy zwrot został zrobiony.",
            next: "przed ponownym zleceniem sprawdź u operatora płatności, czy zwrot został zrobiony",
        },
    },
    event_unknown_attempt: Matter {
        title: "powiadomienie o nieznanej płatności",
        cause: Cause {
            meaning: "Operator płatności przysłał prawdziwe powiadomienie o płatności, której hub nie zna.",
            next: "obejrzyj powiadomienie: czy płatność zaczęto gdzie indziej na tym samym koncie?",
        },
    },
    event_unreadable: Matter {
        title: "nieczytelne powiadomienie",
        cause: Cause {
            meaning: "Operator płatności przysłał prawdziwe powiadomienie, którego nie można odczytać; jest zachowane.",
            next: "obejrzyj powiadomienie; zapytaj operatora płatności, co ono znaczy, i sprawdź płatność ręcznie",
        },
    },
    provider_config: Matter {
        title: "operator płatności odmawia dostępu",
        cause: Cause {
            meaning: "Operator płatności odrzuca dane dostępu do konta; nikt nie może przez nie zapłacić.",
            next: "popraw ustawienia konta u operatora płatności",
        },
    },
    provider_refused: Matter {
        title: "operator nie przyjmuje płatności",
        cause: Cause {
            meaning: "Operator płatności odmawia rozpoczęcia płatności; być może nikt nie może zapłacić przez to konto.",
            next: "sprawdź, czego operator płatności nie przyjmuje: popraw konto u niego lub tutaj albo zacznij płatność od nowa",
        },
    },
    endpoint_disabled: Matter {
        title: "aplikacja nie dostaje wiadomości",
        cause: Cause {
            meaning: "Adres aplikacji wyłączono, bo zbyt długo nie przyjmował wiadomości; nic więcej tam nie wysyłamy.",
            next: "popraw adres i włącz go; pominięte wiadomości można wysłać ponownie",
        },
    },
    message_exhausted: Matter {
        title: "aplikacja nie dostała wiadomości",
        cause: Cause {
            meaning: "Adres aplikacji nie przyjął wiadomości i nie zostanie ona wysłana ponownie sama z siebie.",
            next: "sprawdź, dlaczego adres odrzuca wiadomości, wyślij pominięte ponownie przez POST /v1/webhook-endpoints/{id}/replay, a potem zamknij to zgłoszenie",
        },
    },
    notice_undeliverable: Matter {
        title: "nie można doręczyć listu",
        cause: Cause {
            meaning: "Serwer poczty trwale odrzuca adres, na który wysłaliśmy list.",
            next: "popraw adres, a potem wyślij list ponownie przez POST /v1/notices/{id}/resend",
        },
    },
    job_poison: Matter {
        title: "odłożone zadanie",
        cause: Cause {
            meaning: "Zadanie huba zaczynano wiele razy i nigdy się nie skończyło; zostało odłożone.",
            next: "sprawdź w dzienniku, co je przerywało; potem POST /v1/jobs/{id}/retry wznowi pracę",
        },
    },
    other: Matter {
        title: "coś do sprawdzenia",
        cause: Cause { meaning: "Hub napotkał coś, na co ktoś powinien spojrzeć.", next: "zobacz szczegóły" },
    },
};
