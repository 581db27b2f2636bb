//! From raw text to the plain form that the lexer reads: delimiters, spacing commands and typographic signs go.

use std::borrow::Cow;

/// Signs that have a plain or LaTeX twin.
const fn twin(c: char) -> Option<&'static str> {
    Some(match c {
        '−' | '–' | '—' | '‐' | '‑' | '﹣' | '－' => "-",
        '＋' => "+",
        '×' | '⋅' | '·' | '∙' | '•' | '✕' => "*",
        '÷' | '⁄' | '∕' | '／' => "/",
        '＝' => "=",
        '＜' => "<",
        '＞' => ">",
        '≤' | '⩽' | '≦' => r"\le ",
        '≥' | '⩾' | '≧' => r"\ge ",
        '≠' => r"\ne ",
        '≈' | '≃' | '≅' => r"\approx ",
        '≡' => r"\equiv ",
        '∈' => r"\in ",
        '∪' => r"\cup ",
        '∩' => r"\cap ",
        '∖' => r"\setminus ",
        '∅' | '⌀' => r"\emptyset ",
        '∞' => r"\infty ",
        '±' => r"\pm ",
        '∓' => r"\mp ",
        '√' => r"\sqrt ",
        '∛' => r"\sqrt[3]",
        '°' | 'º' | '˚' => r"^\circ ",
        '′' | '’' | '‘' => "'",
        '″' => "''",
        '“' | '”' => "\"",
        '（' => "(",
        '）' => ")",
        '［' => "[",
        '］' => "]",
        '｛' => "{",
        '｝' => "}",
        '，' => ",",
        '；' => ";",
        '：' => ":",
        '。' => ".",
        '％' => "%",
        '＄' => "$",
        '…' => r"\ldots ",
        '⌊' => r"\lfloor ",
        '⌋' => r"\rfloor ",
        '⌈' => r"\lceil ",
        '⌉' => r"\rceil ",
        '⟨' | '〈' => r"\langle ",
        '⟩' | '〉' => r"\rangle ",
        '∠' => r"\angle ",
        '△' => r"\triangle ",
        'π' | 'Π' | '𝜋' => r"\pi ",
        'α' => r"\alpha ",
        'β' => r"\beta ",
        'γ' => r"\gamma ",
        'δ' => r"\delta ",
        'ε' | 'ϵ' => r"\epsilon ",
        'θ' | 'ϑ' => r"\theta ",
        'λ' => r"\lambda ",
        'μ' | 'µ' => r"\mu ",
        'ν' => r"\nu ",
        'ρ' => r"\rho ",
        'σ' => r"\sigma ",
        'τ' => r"\tau ",
        'φ' | 'ϕ' => r"\phi ",
        'χ' => r"\chi ",
        'ψ' => r"\psi ",
        'ω' => r"\omega ",
        'Δ' => r"\Delta ",
        'Ω' => r"\Omega ",
        'Σ' => r"\Sigma ",
        'ℝ' => r"\mathbb{R}",
        'ℤ' => r"\mathbb{Z}",
        'ℕ' => r"\mathbb{N}",
        'ℚ' => r"\mathbb{Q}",
        'ℂ' => r"\mathbb{C}",
        '½' => r"\frac{1}{2}",
        '⅓' => r"\frac{1}{3}",
        '⅔' => r"\frac{2}{3}",
        '¼' => r"\frac{1}{4}",
        '¾' => r"\frac{3}{4}",
        '⅕' => r"\frac{1}{5}",
        '⅛' => r"\frac{1}{8}",
        '⅜' => r"\frac{3}{8}",
        '⅝' => r"\frac{5}{8}",
        '⅞' => r"\frac{7}{8}",
        '\u{a0}' | '\u{2002}' | '\u{2003}' | '\u{3000}' | '\t' | '\n' | '\r' => " ",
        '\u{202f}' | '\u{2009}' | '\u{200a}' | '\u{2005}' | '\u{2006}' => r"\,",
        '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{feff}' | '\u{ad}' => "",
        _ => return None,
    })
}

const fn superscript(c: char) -> Option<char> {
    Some(match c {
        '⁰' => '0',
        '¹' => '1',
        '²' => '2',
        '³' => '3',
        '⁴' => '4',
        '⁵' => '5',
        '⁶' => '6',
        '⁷' => '7',
        '⁸' => '8',
        '⁹' => '9',
        '⁻' => '-',
        '⁺' => '+',
        'ⁿ' => 'n',
        _ => return None,
    })
}

const fn subscript(c: char) -> Option<char> {
    Some(match c {
        '₀' => '0',
        '₁' => '1',
        '₂' => '2',
        '₃' => '3',
        '₄' => '4',
        '₅' => '5',
        '₆' => '6',
        '₇' => '7',
        '₈' => '8',
        '₉' => '9',
        _ => return None,
    })
}

/// The text with its typographic signs in plain form.
fn plain_signs(text: &str) -> Cow<'_, str> {
    if text.is_ascii() && !text.bytes().any(|b| b < 0x20) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if let Some(s) = twin(c) {
            out.push_str(s);
        } else if let Some(d) = superscript(c) {
            out.push_str("^{");
            out.push(d);
            while let Some(d) = chars.peek().copied().and_then(superscript) {
                out.push(d);
                chars.next();
            }
            out.push('}');
        } else if let Some(d) = subscript(c) {
            out.push_str("_{");
            out.push(d);
            while let Some(d) = chars.peek().copied().and_then(subscript) {
                out.push(d);
                chars.next();
            }
            out.push('}');
        } else if c == '\0' || (c.is_control() && c != ' ') {
            out.push(' ');
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn wrapped<'a>(s: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let inner = s.strip_prefix(open)?.strip_suffix(close)?;
    let again = if open == close {
        inner.contains(open)
    } else {
        inner.contains(open) || inner.contains(close)
    };
    (!(again || close == "$" && inner.ends_with('\\'))).then_some(inner)
}

/// What stands inside math delimiters, markdown emphasis, code marks and quotation marks around the whole.
fn unwrap(mut s: &str) -> &str {
    const PAIRS: &[(&str, &str)] = &[
        ("$$", "$$"),
        (r"\[", r"\]"),
        (r"\(", r"\)"),
        ("$", "$"),
        ("**", "**"),
        ("__", "__"),
        ("```", "```"),
        ("`", "`"),
        ("\"", "\""),
        ("*", "*"),
        (r"\begin{equation}", r"\end{equation}"),
        (r"\begin{equation*}", r"\end{equation*}"),
        (r"\begin{align*}", r"\end{align*}"),
        (r"\begin{align}", r"\end{align}"),
    ];
    loop {
        s = s.trim();
        let before = s;
        // A sentence's full stop may stand outside the delimiters.
        let bare = s.strip_suffix(['.', ',', ';']).map_or(s, str::trim_end);
        for (open, close) in PAIRS {
            if let Some(inner) = wrapped(s, open, close).or_else(|| wrapped(bare, open, close)) {
                s = inner.trim();
                break;
            }
        }
        if s == before {
            return s;
        }
    }
}

/// Strips what stands around an answer and says nothing.
pub fn clean(text: &str) -> Cow<'_, str> {
    match plain_signs(text) {
        Cow::Borrowed(s) => Cow::Borrowed(unwrap(s)),
        Cow::Owned(s) => Cow::Owned(unwrap(&s).to_owned()),
    }
}

/// A quick normal form: two answers with the same one are equal without being read. Spaces go where they separate
/// nothing, `\left` and `\right` go, `\dfrac` is `\frac`, and braces around one character go.
pub fn normal(s: &str) -> Vec<u8> {
    let b = s.as_bytes();
    let mut out = Vec::with_capacity(b.len());
    let mut i = 0;
    while i < b.len() {
        let rest = &b[i..];
        match b[i] {
            b' ' => {
                let after_word = out.last().is_some_and(u8::is_ascii_alphanumeric);
                let before_word = b.get(i + 1).is_some_and(u8::is_ascii_alphanumeric);
                if after_word && before_word {
                    out.push(b' ');
                }
                i += 1;
            }
            b'\\' => {
                let len = 1 + rest[1..]
                    .iter()
                    .take_while(|c| c.is_ascii_alphabetic())
                    .count();
                match &rest[..len] {
                    br"\left" | br"\right" => i += len,
                    br"\dfrac" | br"\tfrac" => {
                        out.extend_from_slice(br"\frac");
                        i += len;
                    }
                    br"\" => {
                        if rest.get(1) != Some(&b'!') {
                            out.extend_from_slice(&rest[..2.min(rest.len())]);
                        }
                        i += 2;
                    }
                    name => {
                        out.extend_from_slice(name);
                        i += len;
                        // The space that ends the name of a command.
                        if b.get(i) == Some(&b' ')
                            && b.get(i + 1).is_some_and(u8::is_ascii_alphabetic)
                        {
                            out.push(b' ');
                        }
                    }
                }
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    while out.last() == Some(&b'.') {
        out.pop();
    }
    out
}
