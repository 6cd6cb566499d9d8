use super::*;
use proptest::prelude::*;

fn parsed(text: &str) -> Amount {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_form_of_the_grammar_is_read() {
    for (text, nanos) in [
        ("0", 0),
        ("2", 2 * NANO),
        ("+2", 2 * NANO),
        ("-2", -2 * NANO),
        ("1.5", 3 * NANO / 2),
        (".5", NANO / 2),
        ("5.", 5 * NANO),
        ("500m", NANO / 2),
        ("250u", 250_000),
        ("7n", 7),
        ("2k", 2_000 * NANO),
        ("3M", 3_000_000 * NANO),
        ("1Ki", 1024 * NANO),
        ("1.5Gi", 1_610_612_736 * NANO),
        ("1e3", 1000 * NANO),
        ("1E3", 1000 * NANO),
        ("12e-1", 12 * NANO / 10),
        ("1E", 1_000_000_000_000_000_000 * NANO),
        ("0.0000000001", 1),
        ("-0.0000000001", -1),
        ("1e-400", 1),
        ("0e9999999999", 0),
        ("0.1Ki", 102_400_000_000),
        ("5000000000000000000000000000.00000000000n", 5_000_000_000 * NANO * NANO),
    ] {
        assert_eq!(parsed(text).nanos(), nanos, "{text}");
    }
}

#[test]
fn too_large_is_capped_as_in_kubernetes() {
    for text in
        ["100E", "9223372036854775808", "1e400", "8Ei", "99999999999999999999999999999999999999999999"]
    {
        assert_eq!(parsed(text).nanos(), MAX, "{text}");
        assert_eq!(parsed(&format!("-{text}")).nanos(), -MAX, "-{text}");
    }
    assert_eq!(parsed("9223372036854775807").as_whole(), Some(i64::MAX));
    assert_eq!(parsed("7Ei").as_whole(), Some(7 << 60));
}

#[test]
fn nonsense_is_refused_with_what_was_given() {
    for text in [
        "", "-", "+", ".", "abc", "1.2.3", "1 ", " 1", "1kk", "1K", "1ki", "e3", "1e", "1e+", "0x10", "1,5",
        "½", "--1",
    ] {
        let error = text.parse::<Amount>().expect_err(text).to_string();
        assert!(error.contains(&format!("{text:?}")), "{error}");
    }
}

#[test]
fn texts_are_canonical() {
    for (text, decimal, binary, plain) in [
        ("2000", "2k", "2000", "2000"),
        ("0.5", "500m", "500m", "0.5"),
        ("1.5", "1500m", "1500m", "1.5"),
        ("2147483648", "2147483648", "2Gi", "2147483648"),
        ("1.5Gi", "1610612736", "1536Mi", "1610612736"),
        ("0", "0", "0", "0"),
        ("-3", "-3", "-3", "-3"),
        ("-0.5", "-500m", "-500m", "-0.5"),
        ("1e-9", "1n", "1n", "0.000000001"),
    ] {
        assert_eq!(parsed(text).to_plain_string(), plain);
        assert_eq!(parsed(text).to_string(), decimal);
        assert_eq!(parsed(text).to_binary_string(), binary);
    }
}

#[test]
fn shares_are_exact_at_the_ends() {
    assert_eq!(Amount::whole(0).millionths_of(Amount::whole(4)), 0);
    assert_eq!(Amount::whole(1).millionths_of(Amount::whole(4)), 250_000);
    assert_eq!(Amount::whole(4).millionths_of(Amount::whole(4)), 1_000_000);
    assert_eq!(Amount::whole(1).millionths_of(Amount::ZERO), 1_000_000);
    assert_eq!(Amount(MAX).millionths_of(Amount(1)), u32::MAX);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_never_panics(text in "\\PC{0,40}|[-+]?[0-9.]{0,50}[a-zA-Z]{0,2}[-+]?[0-9]{0,12}") {
        if let Ok(amount) = text.parse::<Amount>() {
            prop_assert!(amount.nanos().abs() <= MAX);
        }
    }

    #[test]
    fn printing_and_reading_give_the_same_amount(nanos in -MAX..=MAX) {
        let amount = Amount(nanos);
        prop_assert_eq!(parsed(&amount.to_string()), amount);
        prop_assert_eq!(parsed(&amount.to_binary_string()), amount);
        prop_assert_eq!(parsed(&amount.to_plain_string()), amount);
    }

    #[test]
    fn a_sum_can_be_taken_back(a in -MAX/2..=MAX/2, b in -MAX/2..=MAX/2) {
        let (a, b) = (Amount(a), Amount(b));
        prop_assert_eq!(a + b - b, a);
    }

    #[test]
    fn spelling_does_not_matter(units in 0i64..1_000_000_000) {
        let plain = Amount::whole(units);
        let spelt = [format!("{units}"), format!("{units}000m"), format!("{units}.000"), format!("{units}e0"), format!("0.{units:012}e12")];
        for text in spelt {
            prop_assert_eq!(parsed(&text), plain, "{}", text);
        }
        prop_assert_eq!(parsed(&format!("{units}Ki")), Amount::whole(units * 1024));
    }
}
