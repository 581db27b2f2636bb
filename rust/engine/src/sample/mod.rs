//! The sampler: continuous batching over a paged KV cache.
//!
//! A step runs one token of every completion that is being decoded and pieces of prompts that wait, all in
//! the same products. What a token's logits are does not depend on the rest of the batch, to the last bit
//! (see `kernels`), and its draw depends on (seed, completion, position) alone (see `rng`), so a request
//! gives the same answer in any company, any order, with any number of threads.
mod buffer;
mod choose;
mod forward;
mod kernels;
mod kv;
mod model;
mod plan;
mod register;
mod request;
mod rng;
mod schedule;
mod stop;
mod team;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use crate::{ModelConfig, Weights};
use forward::{Buffers, Local, Work};
use kernels::Kernels;
use kv::{PAGE, PageShape, Pool};
use model::Model;
use plan::Plan;
use schedule::Scheduler;
use team::Team;

pub use request::{
    Completion, Finished, Request, SampleError, StopMatch, StopReason, TokenLogprob,
};
pub use schedule::{Stats, TokenBytes};
pub use stop::StringMatch;

/// How a sampler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub threads: usize,
    /// Tokens that the KV cache may hold, over all requests; taken in pages of 16 as they are needed.
    pub kv_tokens: usize,
}

/// Samples from one fixed set of weights. All methods take `&self` and may be called from any thread:
/// while one thread is in [`Sampler::run`], others may submit, cancel and interrupt.
pub struct Sampler {
    model: Model,
    team: Team,
    options: Options,
    knows_bytes: bool,
    next_id: AtomicU64,
    interrupted: AtomicBool,
    inbox: Mutex<Vec<Message>>,
    /// Held by whoever runs.
    running: Mutex<()>,
    scheduler: Mutex<Scheduler>,
    work: RwLock<Work>,
    stats: Mutex<Stats>,
}

enum Message {
    Submit(u64, Box<Request>),
    Cancel(u64),
}

impl Sampler {
    /// Pack the weights. `token_bytes[id]` is what each token stands for, empty for control tokens; without
    /// it there are no stop strings.
    pub fn new(
        cfg: ModelConfig,
        weights: Arc<Weights<f32>>,
        options: Options,
        token_bytes: Option<TokenBytes>,
    ) -> Result<Self, SampleError> {
        Self::with_kernels(cfg, weights, options, token_bytes, Kernels::detect())
    }

    fn with_kernels(
        cfg: ModelConfig,
        weights: Arc<Weights<f32>>,
        options: Options,
        token_bytes: Option<TokenBytes>,
        kernels: Kernels,
    ) -> Result<Self, SampleError> {
        check_shapes(&cfg, &weights)?;
        if options.threads == 0 || options.threads > 1024 {
            return Err(SampleError::Invalid(format!(
                "threads = {}: 1 to 1024",
                options.threads
            )));
        }
        if options.kv_tokens == 0 {
            return Err(SampleError::Invalid("kv_tokens = 0: at least 1".into()));
        }
        if let Some(table) = &token_bytes
            && table.len() > cfg.vocab
        {
            let (found, vocab) = (table.len(), cfg.vocab);
            return Err(SampleError::Invalid(format!(
                "token_bytes has {found} entries: the vocabulary has {vocab} tokens"
            )));
        }
        let team = Team::new(options.threads)
            .map_err(|error| SampleError::Invalid(format!("threads: {error}")))?;
        let pool = Pool::new(PageShape::new(&cfg), options.kv_tokens.div_ceil(PAGE));
        let model = team
            .pool()
            .install(|| Model::new(cfg.clone(), weights, kernels));
        let model = model.map_err(|error| SampleError::Memory(error.to_string()))?;
        let work = Work {
            plan: Plan::default(),
            pool,
            buffers: Buffers::new(),
            stop: false,
        };
        Ok(Self {
            model,
            team,
            options,
            knows_bytes: token_bytes.is_some(),
            next_id: AtomicU64::new(0),
            interrupted: AtomicBool::new(false),
            inbox: Mutex::new(Vec::new()),
            running: Mutex::new(()),
            scheduler: Mutex::new(Scheduler::new(cfg, token_bytes)),
            stats: Mutex::new(Stats {
                pages: options.kv_tokens.div_ceil(PAGE),
                ..Stats::default()
            }),
            work: RwLock::new(work),
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.model.cfg
    }

    /// Queue a request; its id comes back with its answer. Refused when it has no meaning or can never fit.
    pub fn submit(&self, request: Request) -> Result<u64, SampleError> {
        self.submit_as(0, request)
    }

    fn submit_as(&self, kind: u64, request: Request) -> Result<u64, SampleError> {
        let pages = self.options.kv_tokens.div_ceil(PAGE);
        Scheduler::check(&request, &self.model.cfg, self.knows_bytes, pages)?;
        let mut inbox = lock(&self.inbox)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) | kind;
        inbox.push(Message::Submit(id, Box::new(request)));
        lock(&self.stats)?.pending += 1;
        Ok(id)
    }

    /// Stop a request: it finishes with what it has. One that has finished or never was is left alone.
    pub fn cancel(&self, id: u64) -> Result<(), SampleError> {
        lock(&self.inbox)?.push(Message::Cancel(id));
        Ok(())
    }

    /// Make the `run` of another thread, or the next one, return after the step it is in.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
    }

    /// Work until a request finishes, nothing is left to do, `max_steps` have passed or `interrupt` was
    /// called; gives what has finished. Requests submitted meanwhile join in.
    pub fn run(&self, max_steps: usize) -> Result<Vec<Finished>, SampleError> {
        self.drive(max_steps, |id| id < SCORE)
    }

    fn drive(
        &self,
        max_steps: usize,
        mine: impl Fn(u64) -> bool,
    ) -> Result<Vec<Finished>, SampleError> {
        let _running = lock(&self.running)?;
        self.team.run(|thread, gate| {
            let mut local = Local::new();
            let mut steps = 0;
            loop {
                if thread == 0 {
                    self.prepare(steps, max_steps);
                }
                gate.wait();
                {
                    // Poisoned only after a panic, which the gate has made one of this thread too.
                    let Ok(work) = self.work.read() else { return };
                    if work.stop {
                        return;
                    }
                    forward::forward(&self.model, &work, gate, self.options.threads, &mut local);
                }
                steps += 1;
            }
        });
        Ok(lock(&self.scheduler)?.take_finished(mine))
    }

    /// Between two steps: take in what the last gave, write the next.
    #[expect(
        clippy::expect_used,
        reason = "a poisoned lock means a panic in an earlier run, which `running` reports"
    )]
    fn prepare(&self, steps: usize, max_steps: usize) {
        let mut scheduler = self.scheduler.lock().expect("scheduler lock");
        let mut work = self.work.write().expect("work lock");
        let Work {
            plan,
            pool,
            buffers,
            stop,
        } = &mut *work;
        if steps > 0 {
            scheduler.absorb(plan, pool);
        }
        for message in std::mem::take(&mut *self.inbox.lock().expect("inbox lock")) {
            match message {
                Message::Submit(id, request) => scheduler.submit(id, *request),
                Message::Cancel(id) => scheduler.cancel(id, pool),
            }
        }
        let leave = self.interrupted.swap(false, Ordering::AcqRel)
            || scheduler.has_finished()
            || steps == max_steps;
        *stop = leave || !scheduler.plan(plan, pool);
        if !*stop {
            buffers.reserve(&self.model, plan);
        }
        let waiting = self.inbox.lock().expect("inbox lock").len();
        let mut stats = self.stats.lock().expect("stats lock");
        *stats = scheduler.stats(pool);
        stats.pending += waiting;
    }

    /// Counts as of the last step; requests that wait in the inbox are pending.
    pub fn stats(&self) -> Result<Stats, SampleError> {
        Ok(*lock(&self.stats)?)
    }

    /// The logprob of every token given those before it, NaN for the first of each sequence. Other requests
    /// go on meanwhile; their answers are left to `run`.
    pub fn score(&self, sequences: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, SampleError> {
        let submit = |tokens| self.submit_as(SCORE, Request::score(tokens));
        let ids = sequences
            .into_iter()
            .map(submit)
            .collect::<Result<Vec<u64>, _>>()?;
        let mut scores = vec![Vec::new(); ids.len()];
        let (mut open, mut failed) = (ids.len(), None);
        while open > 0 {
            for finished in self.drive(usize::MAX, |id| ids.binary_search(&id).is_ok())? {
                open -= 1;
                failed = failed.or(finished.error);
                if let Ok(at) = ids.binary_search(&finished.id) {
                    scores[at] = finished.prompt_logprobs.unwrap_or_default();
                }
            }
        }
        failed.map_or(Ok(scores), Err)
    }
}

/// Ids from here on are those of `score`, whose answers `run` does not give.
const SCORE: u64 = 1 << 63;

fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>, SampleError> {
    mutex.lock().map_err(|_| SampleError::Broken)
}

/// Weights must be those of the config: everything after this reads them without looking.
fn check_shapes(cfg: &ModelConfig, weights: &Weights<f32>) -> Result<(), SampleError> {
    let fail = |what: String| Err(SampleError::Invalid(what));
    if cfg.n_layers == 0
        || cfg.vocab == 0
        || cfg.hidden == 0
        || cfg.intermediate == 0
        || cfg.context == 0
    {
        return fail(
            "a model needs layers, a vocabulary, a width and a context: one of them is 0".into(),
        );
    }
    if cfg.n_kv_heads == 0 || !cfg.n_heads.is_multiple_of(cfg.n_kv_heads) || cfg.n_heads == 0 {
        return fail(format!(
            "{} query heads do not divide among {} key heads",
            cfg.n_heads, cfg.n_kv_heads
        ));
    }
    if cfg.head_dim == 0 || !cfg.head_dim.is_multiple_of(2) {
        return fail(format!(
            "head_dim = {}: rotation needs it even",
            cfg.head_dim
        ));
    }
    let mut found = vec![
        ("embed", weights.embed.len(), cfg.vocab * cfg.hidden),
        ("layers", weights.layers.len(), cfg.n_layers),
        ("final_norm", weights.final_norm.len(), cfg.hidden),
        ("head", weights.head().len(), cfg.vocab * cfg.hidden),
    ];
    for layer in &weights.layers {
        let part = |part: &Option<Vec<f32>>| part.as_ref().map_or(0, Vec::len);
        found.extend([
            ("attn_norm", layer.attn_norm.len(), cfg.hidden),
            ("qkv", layer.qkv.len(), cfg.qkv_dim() * cfg.hidden),
            (
                "qkv_bias",
                part(&layer.qkv_bias),
                if cfg.qkv_bias { cfg.qkv_dim() } else { 0 },
            ),
            (
                "q_norm",
                part(&layer.q_norm),
                if cfg.qk_norm { cfg.head_dim } else { 0 },
            ),
            (
                "k_norm",
                part(&layer.k_norm),
                if cfg.qk_norm { cfg.head_dim } else { 0 },
            ),
            ("o", layer.o.len(), cfg.hidden * cfg.q_dim()),
            ("mlp_norm", layer.mlp_norm.len(), cfg.hidden),
            (
                "gate_up",
                layer.gate_up.len(),
                2 * cfg.intermediate * cfg.hidden,
            ),
            ("down", layer.down.len(), cfg.hidden * cfg.intermediate),
        ]);
    }
    match found.iter().find(|(_, found, expected)| found != expected) {
        Some((name, found, expected)) => fail(format!(
            "weights: {name} has {found} numbers, the config says {expected}"
        )),
        None => Ok(()),
    }
}
