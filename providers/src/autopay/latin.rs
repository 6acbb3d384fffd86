//! Texts from people, written with the letters that Autopay takes.

/// Up to 79 of Latin letters, digits, `.`, `:`, `-`, `,` and space, as the start message's Description takes them.
/// Letters of other alphabets are transliterated, anything else becomes a space or a dash; nothing is refused, because
/// the text comes from a person and the payer can live with `ż` as `z`.
pub(super) fn description(text: &str, language: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        for part in letter(c, language).chars() {
            if part == ' ' && (out.is_empty() || out.ends_with(' ')) {
                continue;
            }
            if out.len() < 79 {
                out.push(part);
            }
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn letter(c: char, language: &str) -> String {
    if c.is_ascii_alphanumeric() || ".:-, ".contains(c) {
        return c.to_string();
    }
    let small: String = c.to_lowercase().collect();
    let Some(latin) = small.chars().next().and_then(|s| small_letter(s, language)) else {
        return if "|/\\_–—−‑".contains(c) { "-".into() } else { " ".into() };
    };
    let mut letters = latin.chars();
    match letters.next() {
        Some(first) if c.is_uppercase() => first.to_ascii_uppercase().to_string() + letters.as_str(),
        _ => latin.to_owned(),
    }
}

/// Latin spelling of a small letter; `None` when it is not a letter we know.
fn small_letter(c: char, language: &str) -> Option<&'static str> {
    let ukrainian = language.eq_ignore_ascii_case("uk");
    Some(match c {
        'à' | 'á' | 'â' | 'ã' | 'å' | 'ā' | 'ă' | 'ą' => "a",
        'ä' if language.eq_ignore_ascii_case("de") => "ae",
        'ä' => "a",
        'æ' => "ae",
        'ç' | 'ć' | 'ĉ' | 'ċ' | 'č' => "c",
        'ď' | 'đ' | 'ð' => "d",
        'è' | 'é' | 'ê' | 'ë' | 'ē' | 'ĕ' | 'ė' | 'ę' | 'ě' => "e",
        'ĝ' | 'ğ' | 'ġ' | 'ģ' => "g",
        'ĥ' | 'ħ' => "h",
        'ì' | 'í' | 'î' | 'ï' | 'ĩ' | 'ī' | 'į' | 'ı' => "i",
        'ĵ' => "j",
        'ķ' => "k",
        'ĺ' | 'ļ' | 'ľ' | 'ł' => "l",
        'ñ' | 'ń' | 'ņ' | 'ň' => "n",
        'ò' | 'ó' | 'ô' | 'õ' | 'ø' | 'ō' | 'ő' => "o",
        'ö' if language.eq_ignore_ascii_case("de") => "oe",
        'ö' => "o",
        'œ' => "oe",
        'ŕ' | 'ŗ' | 'ř' => "r",
        'ś' | 'ŝ' | 'ş' | 'š' | 'ș' => "s",
        'ß' => "ss",
        'ţ' | 'ť' | 'ț' => "t",
        'þ' => "th",
        'ù' | 'ú' | 'û' | 'ũ' | 'ū' | 'ŭ' | 'ů' | 'ű' | 'ų' => "u",
        'ü' if language.eq_ignore_ascii_case("de") => "ue",
        'ü' => "u",
        'ŵ' => "w",
        'ý' | 'ÿ' => "y",
        'ź' | 'ż' | 'ž' => "z",
        'а' => "a",
        'б' => "b",
        'в' => "v",
        'г' if ukrainian => "h",
        'г' | 'ґ' => "g",
        'д' => "d",
        'е' | 'э' => "e",
        'є' => "ye",
        'ё' => "yo",
        'ж' => "zh",
        'з' => "z",
        'и' if ukrainian => "y",
        'и' | 'і' => "i",
        'ї' => "yi",
        'й' | 'ы' => "y",
        'к' => "k",
        'л' => "l",
        'м' => "m",
        'н' => "n",
        'о' => "o",
        'п' => "p",
        'р' => "r",
        'с' => "s",
        'т' => "t",
        'у' | 'ў' => "u",
        'ф' => "f",
        'х' => "kh",
        'ц' => "ts",
        'ч' => "ch",
        'ш' => "sh",
        'щ' => "shch",
        'ъ' | 'ь' | '\'' | '’' | 'ʼ' | '\u{300}'..='\u{36f}' => "",
        'ю' => "yu",
        'я' => "ya",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, language: &str, expect: &str) {
        assert_eq!(description(text, language), expect);
    }

    #[test]
    fn people_write_as_they_like() {
        check("Zażółć gęślą jaźń - faktura za październik", "pl", "Zazolc gesla jazn - faktura za pazdziernik");
        check("Поповнення рахунку", "uk", "Popovnennya rakhunku");
        check("Город, счёт № 7", "ru", "Gorod, schyot 7");
        check("Щука ЇЖАК", "uk", "Shchuka YiZhAK");
        check("příliš žluťoučký, þæö", "cs", "prilis zlutoucky, thaeo");
        check("Größe", "de", "Groesse");
        check("  a | b / c_d  (e)\n\"f\" ", "en", "a - b - c-d e f");
        check("10.00|PLN|1500|20260101000000|SUCCESS", "en", "10.00-PLN-1500-20260101000000-SUCCESS");
        check("z\u{307}o\u{301}ł", "pl", "zol");
        check("支付🙂", "en", "");
        check(&"ż".repeat(200), "pl", &"z".repeat(79));
    }
}
