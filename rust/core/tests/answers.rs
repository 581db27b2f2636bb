//! Laws of the answer grader: what is printed is read back, no text makes it fail, an answer equals itself.
#![allow(clippy::expect_used)]

use dashu_int::IBig;
use dashu_ratio::RBig;
use proptest::prelude::*;
use tinsmith_core::answers::ast::{Answer, Bracket, Const, Decimal, Expr, Func, Join, RelOp};
use tinsmith_core::answers::{Equality, Policy, equal, extract, grade_response, limits, parse};

fn names() -> impl Strategy<Value = Expr> {
    prop::sample::select(vec![
        "x", "y", "n", "a", "X", r"\alpha", r"\theta", "x_1", "a_12",
    ])
    .prop_map(|n| Expr::Var(n.into()))
}

fn numbers() -> impl Strategy<Value = Expr> {
    prop_oneof![
        (0_i64..100_000).prop_map(Expr::int),
        (0_i64..100_000, 1_u32..4).prop_map(|(n, places)| {
            let value = RBig::from_parts_signed(IBig::from(n), IBig::from(10_i64.pow(places)));
            Expr::Dec(Decimal { value, places })
        }),
        prop::sample::select(vec![Const::Pi, Const::E, Const::I]).prop_map(Expr::Const),
    ]
}

/// Expressions as the parser builds them: sums and products are not first in sums and products.
fn expressions() -> impl Strategy<Value = Expr> {
    let one = prop::sample::select(vec![
        Func::Sin,
        Func::Cos,
        Func::Ln,
        Func::Exp,
        Func::Abs,
        Func::Floor,
        Func::Asin,
        Func::Fact,
    ]);
    prop_oneof![names(), numbers()].prop_recursive(5, 40, 3, move |inner| {
        let not_product = inner
            .clone()
            .prop_filter("products of products are flat", |e| {
                !matches!(e, Expr::Mul(_) | Expr::Neg(_))
            });
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Add),
            (
                not_product.clone(),
                prop::collection::vec(not_product.clone(), 1..3)
            )
                .prop_map(|(first, rest)| {
                    Expr::Mul(std::iter::once(first).chain(rest).collect())
                }),
            inner.clone().prop_map(Expr::negated),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.over(b)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a.pow(b)),
            (one.clone(), inner.clone()).prop_map(|(f, x)| Expr::Fn(f, vec![x])),
            (inner.clone(), inner.clone()).prop_map(|(n, k)| Expr::Fn(Func::Binom, vec![n, k])),
            (inner.clone(), inner).prop_map(|(x, b)| Expr::Fn(Func::Log, vec![x, b])),
        ]
    })
}

fn answers() -> impl Strategy<Value = Answer> {
    let brackets = || prop::sample::select(vec![Bracket::Round, Bracket::Square]);
    let cells = || expressions().prop_map(Answer::Expr);
    prop_oneof![
        3 => cells(),
        1 => (brackets(), brackets(), prop::collection::vec(cells(), 2..4)).prop_map(|(o, c, items)| Answer::Tuple(o, c, items)),
        1 => prop::collection::vec(cells(), 1..4).prop_map(Answer::Set),
        1 => prop::collection::vec(cells(), 2..4).prop_map(|items| Answer::List(Join::Comma, items)),
        1 => (cells(), cells(), prop::sample::select(vec![RelOp::Eq, RelOp::Lt, RelOp::Ge, RelOp::Ne]))
            .prop_map(|(a, b, op)| Answer::Relation(vec![a, b], vec![op])),
        1 => prop::collection::vec(prop::collection::vec(cells(), 2), 1..3).prop_map(Answer::Matrix),
    ]
}

/// Text made of what answers are made of, in any order.
fn scraps() -> impl Strategy<Value = String> {
    let scrap = prop::sample::select(vec![
        r"\frac",
        r"\sqrt",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        r"\{",
        r"\}",
        "1",
        "23",
        "0.5",
        "x",
        "y",
        "^",
        "_",
        "+",
        "-",
        "*",
        "/",
        "=",
        "<",
        r"\le",
        ",",
        ";",
        r"\pi",
        r"\text{ cm}",
        r"\text{",
        r"\boxed{",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        "&",
        r"\\",
        "|",
        "!",
        "%",
        r"\%",
        "$",
        r"\$",
        r"\cup",
        r"\infty",
        r"\pm",
        "and",
        "or",
        " ",
        "e",
        "i",
        "sin",
        r"\log",
        ":",
        "...",
        "°",
        "√",
        "²",
        "∞",
        r"\left",
        r"\right",
        "####",
        "answer is",
        "\n",
        "9999999999",
        "10^",
        r"\binom",
        r"\sum_{k=1}^{",
        "mod",
        r"\pmod",
        "\u{0}",
        "\\",
    ]);
    prop::collection::vec(scrap, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_back(answer in answers()) {
        let text = answer.to_string();
        prop_assume!(text.len() <= limits::MAX_BYTES);
        match parse(&text) {
            Ok(read) => prop_assert_eq!(&read, &answer, "{}", text),
            // Nested too deeply for the reader is no other answer.
            Err(reason) => prop_assert!(matches!(reason.name(), "too_deep" | "too_long"), "{}: {:?}", text, reason),
        }
    }

    #[test]
    fn no_text_makes_it_fail(a in scraps(), b in scraps(), c in "\\PC{0,60}") {
        for (x, y) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a)] {
            let _ = equal(x, y, Policy::Relaxed);
            let _ = equal(x, y, Policy::Strict);
            let _ = grade_response(x, y, Policy::Relaxed);
        }
    }

    #[test]
    fn an_answer_equals_itself(answer in answers(), strict: bool) {
        let text = answer.to_string();
        prop_assume!(text.len() <= limits::MAX_BYTES);
        let policy = if strict { Policy::Strict } else { Policy::Relaxed };
        prop_assert_eq!(equal(&text, &text, policy).equality, Equality::Equal);
    }

    #[test]
    fn what_was_planted_in_a_box_is_found(before in "[^\\\\]{0,40}", answer in answers(), after in "[^\\\\]{0,40}") {
        let inner = answer.to_string();
        let text = format!("{before}\\boxed{{{inner}}}{after}");
        let found = extract(&text);
        prop_assert_eq!(found.map(|f| &text[f.start..f.end]), Some(inner.trim()));
    }

    #[test]
    fn the_box_is_found_whatever_braces_stand_around(open in 0_usize..9, close in 0_usize..9) {
        let text = format!("{}\\right\\}}\\boxed{{7}}{}", "{".repeat(open), "}".repeat(close));
        prop_assert_eq!(extract(&text).map(|f| &text[f.start..f.end]), Some("7"));
    }
}

/// The corpus: inputs that were slow, deep or broken somewhere once. None may fail, and each stays what it is.
#[test]
fn the_corpus_is_read_or_refused() {
    for line in include_str!("data/answers_corpus.txt")
        .lines()
        .filter(|l| !l.is_empty())
    {
        let (times, text) = line.split_once('\t').expect("a count, a tab, a text");
        let text = text.repeat(times.parse().expect("a count"));
        for other in ["5", r"\sqrt{2}+x", &text] {
            let _ = equal(&text, other, Policy::Relaxed);
            let _ = equal(other, &text, Policy::Relaxed);
            let _ = grade_response(other, &text, Policy::Relaxed);
        }
    }
}
