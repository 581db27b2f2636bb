//! The trainer of one set of weights.
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::batch::{Batch, Layout};
use crate::config::ModelConfig;
use crate::ops::rope::RopeTable;
use crate::tensor::{Exec, Lanes, Real};
use crate::train::net::{Learn, Net};
use crate::train::params::{Grads, Param, add_grads, zero_grads};
use crate::train::plan::Plan;
use crate::train::walk::{Keep, Part, Workspace};
use crate::train::{AdamW, TrainError, optim};
use crate::weights::Weights;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub learn: Learn,
    pub threads: usize,
    /// Tokens whose activations may be alive at a time, over all threads. A longer row is taken alone, and its layers
    /// are computed again in the backward pass, so that it needs little more.
    pub micro_batch_tokens: usize,
}

impl Settings {
    fn check(&self) -> Result<(), TrainError> {
        let refuse = |message: String| Err(TrainError::Setting(message));
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        if self.threads == 0 || self.threads > available.max(1) {
            return refuse(format!(
                "threads is {}; this machine has 1 to {available}",
                self.threads
            ));
        }
        if self.micro_batch_tokens == 0 {
            return refuse("micro_batch_tokens is 0; it must be at least 1".into());
        }
        if let Learn::LowRank {
            rank,
            alpha,
            attention,
            mlp,
            unembed,
            ..
        } = self.learn
        {
            if rank == 0 || rank > 4096 {
                return refuse(format!("lora_rank is {rank}; it must be 1 to 4096"));
            }
            if !(alpha.is_finite() && alpha > 0.0) {
                return refuse(format!(
                    "lora_alpha is {alpha}; it must be finite and positive"
                ));
            }
            if !(attention || mlp || unembed) {
                return refuse(
                    "nothing to train: choose at least one of attention, MLP and unembedding"
                        .into(),
                );
            }
        }
        Ok(())
    }
}

/// What one thread works with.
#[derive(Debug, Default)]
struct Worker<T> {
    workspace: Workspace<T>,
    grads: Grads<T>,
}

#[derive(Debug)]
pub struct Trainer<T> {
    pub(super) net: Net<T>,
    pub(super) params: Vec<Param<T>>,
    pub(super) step: u64,
    /// What `optim_step` will use; empty when nothing was accumulated.
    pub(super) grads: Grads<T>,
    settings: Settings,
    rope: RopeTable<T>,
    workers: Vec<Worker<T>>,
    pub(super) pool: rayon::ThreadPool,
    cancel: Arc<AtomicBool>,
}

/// One part's logprobs and whatever its loss gave.
type Done<T, O> = (Range<usize>, Vec<T>, Option<O>);

impl<T: Real> Trainer<T> {
    pub fn new(
        config: &ModelConfig,
        base: Arc<Weights<T>>,
        settings: Settings,
    ) -> Result<Self, TrainError> {
        settings.check()?;
        let threads = settings.threads;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("tinsmith-train-{i}"))
            .build()
            .map_err(|e| TrainError::Pool {
                threads,
                message: e.to_string(),
            })?;
        let (net, params) = Net::new(config, base, settings.learn);
        Ok(Self {
            net,
            params,
            step: 0,
            grads: Grads::new(),
            settings,
            rope: RopeTable::new(config),
            workers: (0..threads)
                .map(|_| Worker {
                    workspace: Workspace::default(),
                    grads: Grads::new(),
                })
                .collect(),
            pool,
            cancel: Arc::default(),
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.net.config
    }
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// Optimizer steps taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }
    pub fn num_trained(&self) -> usize {
        self.params.iter().map(|p| p.value.len()).sum()
    }
    /// Set it to stop the call that runs at the next micro-batch; each call clears it at its start.
    pub fn canceller(&self) -> Arc<AtomicBool> {
        self.cancel.clone()
    }

    /// Logprobs of the targets, `[N * K]`.
    pub fn forward(&mut self, batch: &Batch) -> Result<Vec<T>, TrainError> {
        type NoLoss<T> = fn(&Range<usize>, &[T]) -> Result<(Vec<T>, ()), TrainError>;
        Ok(self.run(batch, None::<NoLoss<T>>)?.0)
    }

    /// Logprobs, and what `loss` gave for each part, in the order of the rows. `loss` is handed a range of rows and
    /// their logprobs, and returns the gradient with respect to them (the same shape); it is added to what
    /// `optim_step` will use. An error changes nothing.
    pub fn forward_backward<O: Send>(
        &mut self,
        batch: &Batch,
        loss: impl Fn(&Range<usize>, &[T]) -> Result<(Vec<T>, O), TrainError> + Sync,
    ) -> Result<(Vec<T>, Vec<O>), TrainError> {
        self.run(batch, Some(loss))
    }

    /// Adds the gradient for `d loss / d logprob`, `[N * K]`.
    pub fn backward(&mut self, batch: &Batch, d_logprobs: &[T]) -> Result<Vec<T>, TrainError> {
        if d_logprobs.len() != batch.targets.len() {
            let (got, want) = (d_logprobs.len(), batch.targets.len());
            return Err(TrainError::Input(format!(
                "{got} gradients for {want} targets"
            )));
        }
        let k = batch.per_position;
        let given = |rows: &Range<usize>, _: &[T]| {
            let span = batch.span(rows);
            Ok((d_logprobs[span.start * k..span.end * k].to_vec(), ()))
        };
        Ok(self.forward_backward(batch, given)?.0)
    }

    fn run<O: Send>(
        &mut self,
        batch: &Batch,
        loss: Option<impl Fn(&Range<usize>, &[T]) -> Result<(Vec<T>, O), TrainError> + Sync>,
    ) -> Result<(Vec<T>, Vec<O>), TrainError> {
        let c = &self.net.config;
        batch.check(c.vocab, c.context)?;
        self.cancel.store(false, Ordering::Relaxed);
        self.rope.reach(
            batch
                .offsets
                .windows(2)
                .map(|o| (o[1] - o[0]) as usize)
                .max()
                .unwrap_or(0)
                .max(32),
        );
        let (threads, budget) = (self.settings.threads, self.settings.micro_batch_tokens);
        let held: usize = self
            .params
            .iter()
            .map(|p| p.gradient_len() * size_of::<Lanes<T>>())
            .sum();
        let plan = Plan::new(batch, c, threads, budget, held);
        let (exec, lists) = match &plan {
            Plan::Apart(lists) => (Exec::Serial, lists.as_slice()),
            Plan::Together(list) if threads == 1 => (Exec::Serial, std::slice::from_ref(list)),
            Plan::Together(list) => (Exec::Pool(&self.pool), std::slice::from_ref(list)),
        };
        let (net, params, rope, cancel) = (&self.net, &self.params, &self.rope, &*self.cancel);
        let loss = loss.as_ref();
        let walk = |worker: &mut Worker<T>,
                    list: &Vec<Range<usize>>|
         -> Result<Vec<Done<T, O>>, TrainError> {
            if loss.is_some() {
                clear(&mut worker.grads, params);
            }
            list.iter()
                .map(|rows| {
                    if cancel.load(Ordering::Relaxed) {
                        return Err(TrainError::Cancelled);
                    }
                    let (layout, span, k) = (
                        Layout::new(batch, rows),
                        batch.span(rows),
                        batch.per_position,
                    );
                    let part = Part {
                        layout: &layout,
                        tokens: &batch.tokens[span.clone()],
                        targets: &batch.targets[span.start * k..span.end * k],
                        per_position: k,
                        embedding: net.embedding(params),
                        rope,
                        exec,
                    };
                    let mut logprobs = vec![T::ZERO; part.targets.len()];
                    let keep = match loss {
                        None => Keep::Nothing,
                        Some(_) if span.len() > budget => Keep::Inputs,
                        Some(_) => Keep::All,
                    };
                    worker.workspace.forward(net, part, keep, &mut logprobs);
                    all_finite(batch, &span, &logprobs, "logprob")?;
                    let Some(loss) = loss else {
                        return Ok((span, logprobs, None));
                    };
                    let (d_logprobs, out) = loss(rows, &logprobs)?;
                    if d_logprobs.len() != logprobs.len() {
                        let (got, want) = (d_logprobs.len(), logprobs.len());
                        return Err(TrainError::Input(format!(
                            "the loss gave {got} gradients for {want} targets"
                        )));
                    }
                    all_finite(batch, &span, &d_logprobs, "loss gradient")?;
                    worker
                        .workspace
                        .backward(net, part, &d_logprobs, &mut worker.grads);
                    Ok((span, logprobs, Some(out)))
                })
                .collect()
        };
        let workers = &mut self.workers[..lists.len()];
        let done: Vec<Result<Vec<Done<T, O>>, TrainError>> = match exec {
            Exec::Serial if lists.len() > 1 => self.pool.install(|| {
                workers
                    .par_iter_mut()
                    .zip(lists)
                    .with_max_len(1)
                    .map(|(worker, list)| walk(worker, list))
                    .collect()
            }),
            _ => workers
                .iter_mut()
                .zip(lists)
                .map(|(worker, list)| walk(worker, list))
                .collect(),
        };
        let mut parts = Vec::new();
        for list in done {
            parts.extend(list?);
        }
        parts.sort_by_key(|(span, ..)| span.start);
        if loss.is_some() {
            self.collect(lists.len());
        }
        let logprobs = parts
            .iter()
            .flat_map(|(_, logprobs, _)| logprobs.iter().copied())
            .collect();
        Ok((
            logprobs,
            parts.into_iter().filter_map(|(.., out)| out).collect(),
        ))
    }

    /// Sums the gradients of the first `workers` workers, in order, into what `optim_step` will use.
    fn collect(&mut self, workers: usize) {
        let Some((first, others)) = self.workers[..workers].split_first_mut() else {
            return;
        };
        for other in others {
            add_grads(&mut first.grads, &other.grads);
        }
        if self.grads.is_empty() {
            std::mem::swap(&mut self.grads, &mut first.grads);
        } else {
            add_grads(&mut self.grads, &first.grads);
        }
    }

    /// One AdamW step with the accumulated gradients, which are then cleared; gives their global norm before
    /// clipping. When that is not finite only the gradients are cleared. With none
    /// accumulated nothing changes.
    pub fn optim_step(&mut self, settings: &AdamW) -> Result<f64, TrainError> {
        settings.check()?;
        if self.grads.is_empty() {
            return Err(TrainError::NoGradient);
        }
        let grads = std::mem::take(&mut self.grads);
        let (params, step) = (&mut self.params, self.step + 1);
        let norm = self
            .pool
            .install(|| optim::step(params, &grads, step, settings));
        // The buffers are used again.
        self.workers[0].grads = grads;
        let norm = norm?;
        self.step = step;
        self.net.refresh(&self.params, Exec::Pool(&self.pool));
        Ok(norm)
    }

    /// Forgets the accumulated gradients.
    pub fn zero_grad(&mut self) {
        self.grads = Grads::new();
    }

    /// (name, shape, accumulated gradient) of every trained tensor.
    pub fn gradients(&self) -> Vec<(String, Vec<usize>, Vec<T>)> {
        let value = |(i, param): (usize, &Param<T>)| match self.grads.get(i) {
            Some(held) => param.gradient(held),
            None => vec![T::ZERO; param.value.len()],
        };
        self.named(|i, param| value((i, param)))
    }

    /// (name, shape, value) of every trained tensor: Hugging Face names, or PEFT's for LoRA.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>, Vec<T>)> {
        self.named(|_, param| param.value.clone())
    }

    /// Replaces trained tensors by name, e.g. those of an adapter file; all of them or, on an error, none.
    pub fn set_parameters(&mut self, tensors: &[(String, Vec<T>)]) -> Result<(), TrainError> {
        let mut places = Vec::new();
        for (name, values) in tensors {
            let place = self.params.iter().enumerate().find_map(|(i, param)| {
                param
                    .parts
                    .iter()
                    .find(|part| part.name == *name)
                    .map(|part| (i, part.range.clone()))
            });
            let Some((i, range)) = place else {
                return Err(TrainError::Input(format!(
                    "no trained tensor is called {name:?}"
                )));
            };
            if range.len() != values.len() {
                let (got, want) = (values.len(), range.len());
                return Err(TrainError::Input(format!(
                    "{got} values for {name:?}, which has {want}"
                )));
            }
            places.push((i, range));
        }
        for ((i, range), (_, values)) in places.into_iter().zip(tensors) {
            self.params[i].value[range].copy_from_slice(values);
        }
        self.net.refresh(&self.params, Exec::Pool(&self.pool));
        Ok(())
    }

    fn named(
        &self,
        values: impl Fn(usize, &Param<T>) -> Vec<T>,
    ) -> Vec<(String, Vec<usize>, Vec<T>)> {
        let mut out = Vec::new();
        for (i, param) in self.params.iter().enumerate() {
            let values = values(i, param);
            for part in &param.parts {
                out.push((
                    part.name.clone(),
                    part.shape.clone(),
                    values[part.range.clone()].to_vec(),
                ));
            }
        }
        out
    }

    /// The model as it is now, LoRA merged; later steps do not change it. With a pair on a tied head the head is
    /// no longer the embedding, and the configuration says so.
    pub fn snapshot(&self) -> (ModelConfig, Arc<Weights<T>>) {
        let weights = self.net.weights(&self.params);
        let config = ModelConfig {
            tied_head: weights.head.is_none(),
            ..self.net.config.clone()
        };
        (config, Arc::new(weights))
    }
}

/// Zeros for every parameter, in the old buffers where there are any.
fn clear<T: Real>(grads: &mut Grads<T>, params: &[Param<T>]) {
    if grads.is_empty() {
        *grads = zero_grads(params);
    } else {
        grads.iter_mut().for_each(|g| g.fill(Lanes::ZERO));
    }
}

fn all_finite<T: Real>(
    batch: &Batch,
    span: &Range<usize>,
    values: &[T],
    what: &str,
) -> Result<(), TrainError> {
    let Some(i) = values.iter().position(|x| !x.is_finite()) else {
        return Ok(());
    };
    let (row, position) = batch.locate(span.start + i / batch.per_position);
    Err(TrainError::NonFinite(format!(
        "row {row}, position {position}: the {what} is {}",
        values[i].f64()
    )))
}
