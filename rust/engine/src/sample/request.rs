//! What is asked of a sampler and what it answers.
use crate::ModelConfig;

use super::stop::StringMatch;

/// Completions of one prompt. `n` of 0 samples nothing: with `prompt_logprobs` it scores the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// Completions; the prompt is read once for all of them.
    pub n: usize,
    /// Longest completion, in tokens; the context may end it earlier.
    pub max_tokens: usize,
    /// Logits are divided by it; 0 takes the likeliest token, of equal ones the lowest id.
    pub temperature: f64,
    /// Keep this many likeliest tokens, of equal ones the lower ids; 0 keeps all.
    pub top_k: usize,
    /// Then keep the smallest set of likeliest tokens that has at least this share of what is left; 1 keeps all.
    pub top_p: f64,
    /// Completion j draws from (seed, j) alone.
    pub seed: u64,
    /// Tokens that end a completion. They are part of it.
    pub stop_ids: Vec<u32>,
    /// Bytes that end a completion once its text holds them. The token that completes them is part of it.
    pub stop_strings: Vec<Vec<u8>>,
    /// Report this many likeliest tokens at each sampled position.
    pub top_logprobs: usize,
    pub prompt_logprobs: bool,
    /// Report this many likeliest tokens at each prompt position; needs `prompt_logprobs`.
    pub top_prompt_logprobs: usize,
}

impl Request {
    /// One completion at temperature 1, nothing filtered.
    pub fn new(prompt: Vec<u32>, max_tokens: usize, seed: u64) -> Self {
        Self {
            prompt,
            n: 1,
            max_tokens,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            seed,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            top_logprobs: 0,
            prompt_logprobs: false,
            top_prompt_logprobs: 0,
        }
    }

    /// The logprob of every token of `tokens` given those before it.
    pub fn score(tokens: Vec<u32>) -> Self {
        Self {
            n: 0,
            prompt_logprobs: true,
            ..Self::new(tokens, 0, 0)
        }
    }

    /// Refuse what has no meaning for this model.
    pub(super) fn check(&self, cfg: &ModelConfig, knows_bytes: bool) -> Result<(), SampleError> {
        let refuse = |message: String| Err(SampleError::Invalid(message));
        let (len, context) = (self.prompt.len(), cfg.context);
        if len == 0 {
            return refuse("the prompt is empty: it needs at least one token".into());
        }
        if let Some((at, id)) = self
            .prompt
            .iter()
            .enumerate()
            .find(|(_, id)| **id as usize >= cfg.vocab)
        {
            return refuse(format!(
                "prompt[{at}] = {id}: the vocabulary has {} tokens",
                cfg.vocab
            ));
        }
        if self.n == 0 && len > context {
            return refuse(format!("{len} tokens to score: the context is {context}"));
        }
        if self.n > 0 && len >= context {
            return refuse(format!(
                "a prompt of {len} tokens leaves no room in a context of {context}"
            ));
        }
        if self.n == 0 && !self.prompt_logprobs {
            return refuse(
                "n = 0 asks for nothing: with prompt_logprobs it scores the prompt".into(),
            );
        }
        if u32::try_from(self.n).is_err() {
            return refuse(format!("n = {}: too many completions", self.n));
        }
        if self.n > 0 && self.max_tokens == 0 {
            return refuse("max_tokens = 0: at least 1, or n = 0 to sample nothing".into());
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse(format!(
                "temperature = {}: finite, 0 or more",
                self.temperature
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse(format!("top_p = {}: above 0, at most 1", self.top_p));
        }
        if let Some((at, id)) = self
            .stop_ids
            .iter()
            .enumerate()
            .find(|(_, id)| **id as usize >= cfg.vocab)
        {
            return refuse(format!(
                "stop_ids[{at}] = {id}: the vocabulary has {} tokens",
                cfg.vocab
            ));
        }
        if let Some(at) = self.stop_strings.iter().position(Vec::is_empty) {
            return refuse(format!("stop[{at}] is empty"));
        }
        if !self.stop_strings.is_empty() && !knows_bytes {
            return refuse(
                "stop_strings: this sampler was made without the bytes of its tokens".into(),
            );
        }
        for (name, k) in [
            ("top_logprobs", self.top_logprobs),
            ("top_prompt_logprobs", self.top_prompt_logprobs),
        ] {
            if k > cfg.vocab {
                return refuse(format!(
                    "{name} = {k}: the vocabulary has {} tokens",
                    cfg.vocab
                ));
            }
        }
        if self.top_prompt_logprobs > 0 && !self.prompt_logprobs {
            return refuse("top_prompt_logprobs needs prompt_logprobs".into());
        }
        Ok(())
    }

    /// Tokens that a completion may have: `max_tokens`, cut to the context.
    pub(super) fn room(&self, cfg: &ModelConfig) -> usize {
        self.max_tokens
            .min(cfg.context.saturating_sub(self.prompt.len()))
    }
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    #[error("{0}")]
    Invalid(String),
    #[error(
        "the request needs {needed} tokens of KV cache at once and the sampler has {available}: \
         ask for less or make a sampler with a larger kv_tokens"
    )]
    TooLarge { needed: usize, available: usize },
    #[error("no memory for the packed weights: {0}")]
    Memory(String),
    #[error(
        "the model gives a logit that is NaN or infinite after {position} tokens: its weights are broken"
    )]
    NotFinite { position: usize },
    #[error("an earlier call panicked inside this sampler: make a new one")]
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop id or a stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    Cancelled,
}

/// What ended a completion that ended by `StopReason::Stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMatch {
    Token(u32),
    String(StringMatch),
}

/// A token and its logprob.
pub type TokenLogprob = (u32, f32);

/// One completion of N tokens. All logprobs are natural logs of the probability under the model itself:
/// temperature 1, nothing filtered, which is what scoring the same tokens gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// `[N]`, with the token that ended it.
    pub tokens: Vec<u32>,
    /// `[N]`.
    pub logprobs: Vec<f32>,
    /// `[N][top_logprobs]`, likeliest first, of equal ones the lower id; empty when none were asked for.
    pub top_logprobs: Vec<Vec<TokenLogprob>>,
    pub stop_reason: StopReason,
    pub stop_match: Option<StopMatch>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub id: u64,
    /// `[n]`; a cancelled request has what was sampled until then.
    pub completions: Vec<Completion>,
    /// `[T]`, NaN for the first token, which has no prefix; cut short when cancelled.
    pub prompt_logprobs: Option<Vec<f32>>,
    /// `[T][top_prompt_logprobs]`, empty for the first token; empty when none were asked for.
    pub top_prompt_logprobs: Vec<Vec<TokenLogprob>>,
    /// The request failed; the rest is what there was until then.
    pub error: Option<SampleError>,
}
