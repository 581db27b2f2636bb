//! One step of the model: phases of independent items, each thread taking the next free one.
use crate::weights::LayerWeights;

use super::buffer::Buffer;
use super::choose::{Row, Scratch};
use super::kernels::{COLS, LANES, Line, ROWS, Rows, Tile, flat};
use super::kv::{PAGE, PageShape, Pool};
use super::model::{Layer, Model, Packed};
use super::plan::{AttentionItem, Outcome, Plan, Task};
use super::rng::uniform;
use super::team::Gate;

/// Rows of an element-wise item.
const STRIP: usize = 8;
/// Rows of a product's item, at most: their inputs stay in the core's cache while panels pass by.
const BLOCK: usize = 96;

/// A step in work: what the threads read, and what they write in disjoint parts.
pub struct Work {
    pub plan: Plan,
    pub pool: Pool,
    pub buffers: Buffers,
    /// There is nothing to do: leave.
    pub stop: bool,
}

/// Activations, `[rows][width]` each, a width being a whole number of tiles.
pub struct Buffers {
    /// The residual stream.
    x: Buffer,
    /// Normalised input of a product.
    h: Buffer,
    qkv: Buffer,
    /// Output of attention.
    att: Buffer,
    /// silu(gate) * up
    mlp: Buffer,
    cos: Buffer,
    sin: Buffer,
    /// Rows whose logits are wanted: residual stream and attention output of the last layer.
    head_x: Buffer,
    head_att: Buffer,
    logits: Buffer,
}

/// Numbers from one row of each buffer to the next.
struct Widths {
    hidden: usize,
    qkv: usize,
    att: usize,
    mlp: usize,
    half: usize,
    vocab: usize,
}

impl Widths {
    fn new(model: &Model) -> Self {
        let cfg = &model.cfg;
        Self {
            hidden: cfg.hidden.next_multiple_of(COLS),
            qkv: cfg.qkv_dim().next_multiple_of(COLS),
            att: cfg.q_dim().next_multiple_of(COLS),
            mlp: cfg.intermediate.next_multiple_of(LANES),
            half: cfg.head_dim / 2,
            vocab: cfg.vocab.next_multiple_of(COLS),
        }
    }

    /// Rows whose logits are kept at once: 16 MB of them.
    fn head_rows(&self) -> usize {
        ((4 << 20) / self.vocab).clamp(ROWS, 256) / ROWS * ROWS
    }
}

impl Buffers {
    pub fn new() -> Self {
        let empty = || Buffer::new(0);
        Self {
            x: empty(),
            h: empty(),
            qkv: empty(),
            att: empty(),
            mlp: empty(),
            cos: empty(),
            sin: empty(),
            head_x: empty(),
            head_att: empty(),
            logits: empty(),
        }
    }

    /// Make room for a plan.
    pub fn reserve(&mut self, model: &Model, plan: &Plan) {
        let w = Widths::new(model);
        let (rows, heads) = (plan.rows(), plan.heads.len());
        for (buffer, width) in [
            (&mut self.x, w.hidden),
            (&mut self.h, w.hidden),
            (&mut self.qkv, w.qkv),
            (&mut self.att, w.att),
            (&mut self.mlp, w.mlp),
            (&mut self.cos, w.half),
            (&mut self.sin, w.half),
        ] {
            buffer.reserve(rows * width);
        }
        self.head_x.reserve(heads * w.hidden);
        self.head_att.reserve(heads * w.att);
        self.logits.reserve(heads.min(w.head_rows()) * w.vocab);
    }
}

/// What a thread keeps for itself.
pub struct Local {
    tile: Box<Tile>,
    queries: Vec<f32>,
    scores: Vec<Line>,
    pages: Vec<*const f32>,
    scratch: Scratch,
}

impl Local {
    pub fn new() -> Self {
        Self {
            tile: Box::new(Tile([[0.0; COLS]; ROWS])),
            queries: Vec::new(),
            scores: Vec::new(),
            pages: Vec::new(),
            scratch: Scratch::default(),
        }
    }
}

/// Everything a phase needs.
struct Step<'a> {
    model: &'a Model,
    work: &'a Work,
    gate: &'a Gate,
    threads: usize,
    w: Widths,
    shape: PageShape,
}

/// Run the plan. All threads of the gate call it with the same arguments but `local`.
pub fn forward(model: &Model, work: &Work, gate: &Gate, threads: usize, local: &mut Local) {
    let (w, shape) = (Widths::new(model), PageShape::new(&model.cfg));
    let step = Step {
        model,
        work,
        gate,
        threads,
        w,
        shape,
    };
    let (buffers, heads) = (&work.buffers, work.plan.heads.len());
    step.embed();
    let all = Residual {
        x: &buffers.x,
        att: &buffers.att,
        rows: work.plan.rows(),
    };
    // After the last attention only the rows whose logits are wanted.
    let wanted = Residual {
        x: &buffers.head_x,
        att: &buffers.head_att,
        rows: heads,
    };
    for (index, layer) in model.layers.iter().enumerate() {
        let weights = &model.weights.layers[index];
        step.attend(index, layer, weights, local);
        if index + 1 < model.layers.len() {
            step.finish_layer(layer, weights, all, local);
        } else {
            step.gather();
            step.finish_layer(layer, weights, wanted, local);
        }
    }
    step.norm(wanted.x, &model.weights.final_norm, heads);
    let mut jobs = 0;
    for start in (0..heads).step_by(step.w.head_rows()) {
        let count = step.w.head_rows().min(heads - start);
        step.head(start, count, local);
        let more = work.plan.jobs[jobs..]
            .iter()
            .take_while(|job| job.head < start + count)
            .count();
        step.choose(start, jobs, more, local);
        jobs += more;
    }
}

/// Rows of the residual stream and what attention gives for them.
#[derive(Clone, Copy)]
struct Residual<'a> {
    x: &'a Buffer,
    att: &'a Buffer,
    rows: usize,
}

// SAFETY: of all blocks below: an item touches only its own rows or columns of a buffer that its phase
// writes, phases are separated by a barrier, and `Buffers::reserve` has made room for the plan. The kernels
// were detected on this machine.
impl Step<'_> {
    fn strips(&self, rows: usize, mut work: impl FnMut(usize)) {
        self.gate.phase(rows.div_ceil(STRIP), |strip| {
            (strip * STRIP..rows.min((strip + 1) * STRIP)).for_each(&mut work)
        });
    }

    fn embed(&self) {
        let (plan, buffers, w) = (&self.work.plan, &self.work.buffers, &self.w);
        let hidden = self.model.cfg.hidden;
        self.strips(plan.rows(), |row| unsafe {
            let source = &self.model.weights.embed[plan.tokens[row] as usize * hidden..][..hidden];
            buffers
                .x
                .slice_mut(row * w.hidden, hidden)
                .copy_from_slice(source);
            let cos = buffers.cos.slice_mut(row * w.half, w.half);
            self.model.rope.angles(
                plan.positions[row],
                cos,
                buffers.sin.slice_mut(row * w.half, w.half),
            );
        });
    }

    /// Normalise `x` into `h`.
    fn norm(&self, x: &Buffer, weight: &[f32], rows: usize) {
        let (width, hidden, eps) = (
            self.w.hidden,
            self.model.cfg.hidden,
            self.model.cfg.rms_eps as f32,
        );
        self.strips(rows, |row| unsafe {
            let out = self.work.buffers.h.slice_mut(row * width, hidden);
            (self.model.kernels.norm)(x.slice(row * width, hidden), weight, eps, out);
        });
    }

    /// Attention of all rows, into `att`; keys and values go to the cache.
    fn attend(&self, index: usize, layer: &Layer, weights: &LayerWeights<f32>, local: &mut Local) {
        let (buffers, w) = (&self.work.buffers, &self.w);
        let rows = self.work.plan.rows();
        self.norm(&buffers.x, &weights.attn_norm, rows);
        let bias = weights.qkv_bias.as_deref();
        let input = Input::new(&buffers.h, w.hidden, rows);
        self.product(
            input,
            &layer.qkv,
            &mut local.tile,
            |row, pair, tile| unsafe {
                let out = buffers.qkv.slice_mut(row * w.qkv + pair * COLS, COLS);
                out.copy_from_slice(tile);
                if let Some(bias) = bias {
                    out.iter_mut()
                        .zip(&bias[(pair * COLS).min(bias.len())..])
                        .for_each(|(out, b)| *out += b);
                }
            },
        );
        self.strips(rows, |row| self.rotate(index, weights, row));
        let items = &self.work.plan.attention;
        self.gate.phase(items.len(), |item| {
            self.attention(index, &items[item], local)
        });
    }

    /// QK norm and rotation of a row; queries are scaled in place, the key and the value go to their page.
    fn rotate(&self, index: usize, weights: &LayerWeights<f32>, row: usize) {
        let (plan, buffers, w, cfg) = (
            &self.work.plan,
            &self.work.buffers,
            &self.w,
            &self.model.cfg,
        );
        let (dim, half) = (cfg.head_dim, w.half);
        let eps = cfg.rms_eps as f32;
        let run = &plan.runs[plan.run_of[row] as usize];
        let position = plan.positions[row];
        let page = self
            .work
            .pool
            .page(plan.pages[run.pages.start + position / PAGE]);
        let slot = position % PAGE;
        // SAFETY: see above; a row has its own slot of its sequence's page.
        unsafe {
            let (cos, sin) = (
                buffers.cos.slice(row * half, half),
                buffers.sin.slice(row * half, half),
            );
            let qkv = buffers.qkv.slice_mut(row * w.qkv, cfg.qkv_dim());
            let turn = |head: &mut [f32], norm: Option<&[f32]>, scale: f32| {
                if let Some(norm) = norm {
                    let raw = head.to_vec();
                    (self.model.kernels.norm)(&raw, norm, eps, head);
                }
                let (low, high) = head.split_at_mut(half);
                for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    (*a, *b) = ((*a * cos - *b * sin) * scale, (*b * cos + *a * sin) * scale);
                }
            };
            let (q, kv) = qkv.split_at_mut(cfg.q_dim());
            let (k, v) = kv.split_at_mut(cfg.kv_dim());
            let scale = 1.0 / (dim as f32).sqrt();
            q.chunks_exact_mut(dim)
                .for_each(|head| turn(head, weights.q_norm.as_deref(), scale));
            for (kv_head, head) in k.chunks_exact_mut(dim).enumerate() {
                turn(head, weights.k_norm.as_deref(), 1.0);
                let keys = page.add(self.shape.keys(index, kv_head) + slot);
                for (i, x) in head.iter().enumerate() {
                    keys.add(i * PAGE).write(*x);
                }
            }
            for (kv_head, head) in v.chunks_exact(dim).enumerate() {
                for (chunk, x) in head.chunks(LANES).enumerate() {
                    let values = page.add(self.shape.values(index, kv_head, chunk) + slot * LANES);
                    values.copy_from_nonoverlapping(x.as_ptr(), x.len());
                }
            }
        }
    }

    fn attention(&self, index: usize, item: &AttentionItem, local: &mut Local) {
        let (plan, buffers, w, cfg) = (
            &self.work.plan,
            &self.work.buffers,
            &self.w,
            &self.model.cfg,
        );
        let kernels = &self.model.kernels;
        let Local {
            tile,
            queries,
            scores,
            pages,
            ..
        } = local;
        let (dim, group) = (cfg.head_dim, cfg.n_heads / cfg.n_kv_heads);
        let run = &plan.runs[item.run];
        let count = item.queries.len();
        // Where a query lies in its row, and in which row.
        let place = |query: usize| {
            (
                run.row + query / group,
                (item.kv_head * group + query % group) * dim,
            )
        };
        let keys_of = |query: usize| plan.positions[run.row + query / group] + 1;
        let keys = keys_of(item.queries.end - 1);
        pages.clear();
        let table = &plan.pages[run.pages.clone()][..keys.div_ceil(PAGE)];
        pages.extend(
            table
                .iter()
                .map(|page| self.work.pool.page(*page).cast_const()),
        );
        // SAFETY: see above; queries of an item are its own part of `att`; keys and values are only read here.
        unsafe {
            queries.clear();
            for query in item.queries.clone() {
                let (row, column) = place(query);
                queries.extend_from_slice(buffers.qkv.slice(row * w.qkv + column, dim));
            }
            // Scores, [count][lines]: two pages a tile.
            let lines = pages.len().next_multiple_of(2);
            scores.resize(scores.len().max(lines * ROWS), Line::ZERO);
            let offset = self.shape.keys(index, item.kv_head);
            for pair in 0..lines / 2 {
                let first = pages[2 * pair].add(offset);
                let second = pages
                    .get(2 * pair + 1)
                    .map_or(first, |page| page.add(offset));
                (kernels.tile)(
                    Rows {
                        first: queries.as_ptr(),
                        stride: dim,
                        rows: count,
                    },
                    [first, second],
                    dim,
                    tile,
                );
                for (r, row) in tile.0[..count].iter().enumerate() {
                    let out = &mut scores[r * lines + 2 * pair..][..2];
                    out[0].0.copy_from_slice(&row[..LANES]);
                    out[1].0.copy_from_slice(&row[LANES..]);
                }
            }
            let mut sums = [0.0; ROWS];
            for (r, query) in item.queries.clone().enumerate() {
                sums[r] =
                    (kernels.softmax)(flat(&mut scores[r * lines..][..lines]), keys_of(query));
            }
            let chunks = dim.div_ceil(LANES);
            for chunk in (0..chunks).step_by(2) {
                let value = |chunk: usize| {
                    self.shape
                        .values(index, item.kv_head, chunk.min(chunks - 1))
                };
                let offsets = [value(chunk), value(chunk + 1)];
                let p = Rows {
                    first: scores.as_ptr().cast(),
                    stride: lines * LANES,
                    rows: count,
                };
                (kernels.paged)(p, pages, offsets, keys, tile);
                let width = COLS.min(dim - chunk * LANES);
                for (r, query) in item.queries.clone().enumerate() {
                    let (row, column) = place(query);
                    let out = buffers
                        .att
                        .slice_mut(row * w.att + column + chunk * LANES, width);
                    out.iter_mut()
                        .zip(&tile.0[r])
                        .for_each(|(out, x)| *out = x / sums[r]);
                }
            }
        }
    }

    /// The rows whose logits are wanted, side by side.
    fn gather(&self) {
        let (plan, buffers, w) = (&self.work.plan, &self.work.buffers, &self.w);
        self.strips(plan.heads.len(), |head| unsafe {
            let row = plan.heads[head] as usize;
            buffers
                .head_x
                .slice_mut(head * w.hidden, w.hidden)
                .copy_from_slice(buffers.x.slice(row * w.hidden, w.hidden));
            buffers
                .head_att
                .slice_mut(head * w.att, w.att)
                .copy_from_slice(buffers.att.slice(row * w.att, w.att));
        });
    }

    /// Output projection and MLP, added to the residual stream.
    fn finish_layer(
        &self,
        layer: &Layer,
        weights: &LayerWeights<f32>,
        residual: Residual,
        local: &mut Local,
    ) {
        let (buffers, w) = (&self.work.buffers, &self.w);
        let Residual { x, att, rows } = residual;
        let add = |row: usize, pair: usize, tile: &[f32; COLS]| unsafe {
            let out = x.slice_mut(row * w.hidden + pair * COLS, COLS);
            out.iter_mut().zip(tile).for_each(|(out, y)| *out += y);
        };
        self.product(Input::new(att, w.att, rows), &layer.o, &mut local.tile, add);
        self.norm(x, &weights.mlp_norm, rows);
        let input = Input::new(&buffers.h, w.hidden, rows);
        self.product(
            input,
            &layer.gate_up,
            &mut local.tile,
            |row, pair, tile| unsafe {
                let out = buffers.mlp.slice_mut(row * w.mlp + pair * LANES, LANES);
                if let Some(out) = out.first_chunk_mut() {
                    (self.model.kernels.swiglu)(tile, out);
                }
            },
        );
        self.product(
            Input::new(&buffers.mlp, w.mlp, rows),
            &layer.down,
            &mut local.tile,
            add,
        );
    }

    /// Logits of `count` head rows from `start` on.
    fn head(&self, start: usize, count: usize, local: &mut Local) {
        let (buffers, w) = (&self.work.buffers, &self.w);
        let input = Input {
            first: start,
            ..Input::new(&buffers.h, w.hidden, count)
        };
        self.product(
            input,
            &self.model.head,
            &mut local.tile,
            |row, pair, tile| unsafe {
                buffers
                    .logits
                    .slice_mut(row * w.vocab + pair * COLS, COLS)
                    .copy_from_slice(tile);
            },
        );
    }

    /// Jobs on the logits of the head rows from `start` on.
    fn choose(&self, start: usize, first_job: usize, jobs: usize, local: &mut Local) {
        let (plan, buffers) = (&self.work.plan, &self.work.buffers);
        let scratch = &mut local.scratch;
        self.gate.phase(jobs, |job| {
            let index = first_job + job;
            let job = &plan.jobs[index];
            // SAFETY: logits are only read in this phase.
            let logits = unsafe {
                buffers
                    .logits
                    .slice((job.head - start) * self.w.vocab, self.model.cfg.vocab)
            };
            let outcome = match Row::new(&self.model.kernels, logits) {
                None => Outcome::NotFinite,
                Some(row) => {
                    let (token, top) = match &job.task {
                        Task::Score { target, top } => (*target, *top),
                        Task::Sample {
                            draw,
                            member,
                            position,
                        } => (
                            row.pick(draw.filter, uniform(draw.seed, *member, *position), scratch),
                            draw.top,
                        ),
                    };
                    Outcome::Token {
                        token,
                        logprob: row.logprob(token),
                        top: row.top(top, scratch),
                    }
                }
            };
            let first = plan.outcomes[index].set(outcome);
            debug_assert!(first.is_ok(), "a job is done once");
        });
    }

    /// One phase: `finish(row, pair, columns)` for each row of `a`, counted from 0, and each pair of panels of `b`.
    fn product(
        &self,
        a: Input,
        b: &Packed,
        tile: &mut Tile,
        finish: impl Fn(usize, usize, &[f32; COLS]),
    ) {
        let mut block = BLOCK.min(a.rows.next_multiple_of(ROWS).max(ROWS));
        while block > ROWS && b.pairs * a.rows.div_ceil(block) < 3 * self.threads {
            block = (block / 2).next_multiple_of(ROWS);
        }
        self.gate.phase(b.pairs * a.rows.div_ceil(block), |item| {
            let (start, pair) = (item / b.pairs * block, item % b.pairs);
            for row in (start..a.rows.min(start + block)).step_by(ROWS) {
                let rows = ROWS.min(a.rows - row);
                unsafe {
                    let first = a.buffer.ptr().add((a.first + row) * a.stride);
                    (self.model.kernels.tile)(
                        Rows {
                            first,
                            stride: a.stride,
                            rows,
                        },
                        self.model.pair(b, pair),
                        b.k,
                        tile,
                    );
                }
                for (r, columns) in tile.0[..rows].iter().enumerate() {
                    finish(row + r, pair, columns);
                }
            }
        });
    }
}

/// Rows of a buffer that go into a product.
#[derive(Clone, Copy)]
struct Input<'a> {
    buffer: &'a Buffer,
    first: usize,
    stride: usize,
    rows: usize,
}

impl<'a> Input<'a> {
    fn new(buffer: &'a Buffer, stride: usize, rows: usize) -> Self {
        Self {
            buffer,
            first: 0,
            stride,
            rows,
        }
    }
}
