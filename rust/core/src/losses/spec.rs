//! Which loss: its name and options, parsed and checked once.

use crate::names::unknown;
use crate::{KernelError, Result};

/// A loss with its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    pub kind: LossKind,
    pub kl: Option<KlTerm>,
    pub entropy_coef: f64,
    pub reduction: Reduction,
    pub zero_advantage_rows: ZeroAdvantageRows,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossKind {
    CrossEntropy,
    ImportanceSampling,
    Ppo { low: f64, high: f64 },
    Cispo { low: f64, high: f64 },
    Dro { beta: f64 },
    Gspo { low: f64, high: f64 },
}

/// How tokens become one number. W is the sum of a row's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// sum over rows and tokens of w l: Tinker's, and the default.
    TokenSum,
    /// the same over the sum of w of the whole batch: each token counts alike (arXiv:2503.14476).
    TokenMean,
    /// mean over rows with weight of (sum of w l / W): each sequence counts alike (arXiv:2402.03300).
    SequenceMean,
}

/// What becomes of a row whose advantages are all zero, as those of a constant group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroAdvantageRows {
    /// It counts in the denominator, and KL and entropy terms train on it.
    Keep,
    /// It takes no part at all.
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlTerm {
    pub coef: f64,
    pub estimator: KlEstimator,
}

/// An estimate of KL(learner || reference) from tokens that the learner sampled, with
/// d = lp - reference (Schulman, "Approximating KL divergence", 2020). k1 = d is no loss: the
/// expectation of its gradient is zero; it belongs into the advantages (`kl_penalty`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KlEstimator {
    /// d^2 / 2: on policy, its gradient is that of the KL, without bias (arXiv:2510.01555).
    K2,
    /// exp(-d) - 1 + d: never negative, GRPO's choice (arXiv:2402.03300, eq. 4).
    K3,
}

/// An option as it comes from a config or a wire.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    Number(f64),
    Text(String),
}

impl std::fmt::Display for OptionValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(x) => write!(f, "{x}"),
            Self::Text(s) => write!(f, "{s:?}"),
        }
    }
}

const NAMES: [&str; 6] = [
    "cross_entropy",
    "importance_sampling",
    "ppo",
    "cispo",
    "dro",
    "gspo",
];
const COMMON: [&str; 4] = ["reduction", "kl_coef", "kl_estimator", "entropy_coef"];

impl LossKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => NAMES[0],
            Self::ImportanceSampling => NAMES[1],
            Self::Ppo { .. } => NAMES[2],
            Self::Cispo { .. } => NAMES[3],
            Self::Dro { .. } => NAMES[4],
            Self::Gspo { .. } => NAMES[5],
        }
    }
}

impl Reduction {
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenSum => "token_sum",
            Self::TokenMean => "token_mean",
            Self::SequenceMean => "sequence_mean",
        }
    }
}

fn number(option: &'static str, value: &OptionValue) -> Result<f64> {
    match value {
        OptionValue::Number(x) if x.is_finite() => Ok(*x),
        _ => Err(bad(option, value, "must be a finite number")),
    }
}

fn bad(option: &'static str, value: &OptionValue, why: &'static str) -> KernelError {
    KernelError::Option {
        option,
        value: value.to_string(),
        why,
    }
}

fn choice<T: Copy>(
    option: &'static str,
    value: &OptionValue,
    table: &[(&'static str, T)],
) -> Result<T> {
    let OptionValue::Text(given) = value else {
        return Err(bad(option, value, "must be a name"));
    };
    let names: Vec<&str> = table.iter().map(|(n, _)| *n).collect();
    match table.iter().find(|(n, _)| n == given) {
        Some((_, v)) => Ok(*v),
        None => Err(unknown(option, given, &names)),
    }
}

impl Loss {
    /// The names that `parse` knows.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// A loss by name. Options of every loss: `reduction` (token_sum | token_mean | sequence_mean),
    /// `kl_coef` (0), `kl_estimator` (k3 | k2), `entropy_coef` (0); of all but cross_entropy:
    /// `zero_advantage_rows` (keep | drop); of ppo (0.8, 1.2), cispo (0, 4) and gspo (0.9997, 1.0004):
    /// `clip_low_threshold`, `clip_high_threshold`, bounds of the ratio; of dro: `beta` (0.05).
    pub fn parse<'a, I>(name: &str, options: I) -> Result<Self>
    where
        I: IntoIterator<Item = (&'a str, &'a OptionValue)>,
    {
        let mut kind = match name {
            "cross_entropy" => LossKind::CrossEntropy,
            "importance_sampling" => LossKind::ImportanceSampling,
            "ppo" => LossKind::Ppo {
                low: 0.8,
                high: 1.2,
            },
            "cispo" => LossKind::Cispo {
                low: 0.0,
                high: 4.0,
            },
            "dro" => LossKind::Dro { beta: 0.05 },
            "gspo" => LossKind::Gspo {
                low: 1.0 - 3e-4,
                high: 1.0 + 4e-4,
            },
            _ => return Err(unknown("loss", name, &NAMES)),
        };
        let mut known: Vec<&str> = COMMON.to_vec();
        if kind != LossKind::CrossEntropy {
            known.push("zero_advantage_rows");
        }
        known.extend(match kind {
            LossKind::Ppo { .. } | LossKind::Cispo { .. } | LossKind::Gspo { .. } => {
                &["clip_low_threshold", "clip_high_threshold"][..]
            }
            LossKind::Dro { .. } => &["beta"][..],
            LossKind::CrossEntropy | LossKind::ImportanceSampling => &[][..],
        });

        let mut reduction = Reduction::TokenSum;
        let mut zero_advantage_rows = ZeroAdvantageRows::Keep;
        let mut estimator = KlEstimator::K3;
        let (mut kl_coef, mut entropy_coef) = (0.0, 0.0);
        for (option, value) in options {
            if !known.contains(&option) {
                return Err(unknown("option of the loss", option, &known));
            }
            match option {
                "reduction" => {
                    let all = [
                        Reduction::TokenSum,
                        Reduction::TokenMean,
                        Reduction::SequenceMean,
                    ];
                    reduction = choice("reduction", value, &all.map(|r| (r.name(), r)))?;
                }
                "zero_advantage_rows" => {
                    let table = [
                        ("keep", ZeroAdvantageRows::Keep),
                        ("drop", ZeroAdvantageRows::Drop),
                    ];
                    zero_advantage_rows = choice("zero_advantage_rows", value, &table)?;
                }
                "kl_estimator" => {
                    if *value == OptionValue::Text("k1".into()) {
                        let why = "k1 as a loss trains nothing, the expectation of its gradient is zero; \
                                   put it into the advantages (kl_penalty), or use k2 or k3";
                        return Err(bad("kl_estimator", value, why));
                    }
                    let table = [("k2", KlEstimator::K2), ("k3", KlEstimator::K3)];
                    estimator = choice("kl_estimator", value, &table)?;
                }
                "kl_coef" => kl_coef = number("kl_coef", value)?,
                "entropy_coef" => entropy_coef = number("entropy_coef", value)?,
                "clip_low_threshold" => {
                    let bound = number("clip_low_threshold", value)?;
                    if let LossKind::Ppo { low, .. }
                    | LossKind::Cispo { low, .. }
                    | LossKind::Gspo { low, .. } = &mut kind
                    {
                        *low = bound;
                    }
                }
                "clip_high_threshold" => {
                    let bound = number("clip_high_threshold", value)?;
                    if let LossKind::Ppo { high, .. }
                    | LossKind::Cispo { high, .. }
                    | LossKind::Gspo { high, .. } = &mut kind
                    {
                        *high = bound;
                    }
                }
                _ => {
                    let given = number("beta", value)?;
                    if given < 0.0 {
                        return Err(bad("beta", value, "must not be negative"));
                    }
                    if let LossKind::Dro { beta } = &mut kind {
                        *beta = given;
                    }
                }
            }
        }
        if let LossKind::Ppo { low, high }
        | LossKind::Cispo { low, high }
        | LossKind::Gspo { low, high } = kind
            && !(0.0 <= low && low <= high)
        {
            return Err(KernelError::Option {
                option: "clip_low_threshold, clip_high_threshold",
                value: format!("{low}, {high}"),
                why: "bounds of the ratio must satisfy 0 <= low <= high",
            });
        }
        let kl = (kl_coef != 0.0).then_some(KlTerm {
            coef: kl_coef,
            estimator,
        });
        Ok(Self {
            kind,
            kl,
            entropy_coef,
            reduction,
            zero_advantage_rows,
        })
    }
}
