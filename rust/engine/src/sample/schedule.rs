//! Which requests run, and what becomes of what a step gives.
//!
//! A request is let in when the pages of its prompt and of one completion can be promised; its other
//! completions start as room allows, before any later request. Nothing that has started is ever put out,
//! so the cache cannot run full, and requests start in the order in which they came.
use std::collections::VecDeque;
use std::sync::Arc;

use crate::ModelConfig;

use super::choose::Filter;
use super::kv::{PAGE, Pool};
use super::plan::{Draw, Outcome, Plan, Task};
use super::request::{
    Completion, Finished, Request, SampleError, StopMatch, StopReason, TokenLogprob,
};
use super::stop::{StopState, StopStrings};

/// Prompt tokens of a step, at most: enough for the products to run at full speed.
const PREFILL: usize = 512;

/// Bytes of each token.
pub type TokenBytes = Arc<Vec<Vec<u8>>>;

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub steps: u64,
    pub tokens_prefilled: u64,
    pub tokens_sampled: u64,
    /// Requests that are not finished, those that wait included.
    pub pending: usize,
    /// Completions that are being decoded.
    pub decoding: usize,
    /// Pages of 16 tokens in use and in all.
    pub pages_in_use: usize,
    pub pages: usize,
}

pub struct Scheduler {
    cfg: ModelConfig,
    token_bytes: Option<TokenBytes>,
    queue: VecDeque<Group>,
    /// In order of arrival.
    active: Vec<Group>,
    live: Vec<Live>,
    /// Whose each job of the plan is.
    owners: Vec<Owner>,
    finished: Vec<Finished>,
    stats: Stats,
}

enum Owner {
    Completion { group: u64, member: usize },
    Prompt { group: u64, position: usize },
}

/// A request and its completions.
struct Group {
    id: u64,
    request: Request,
    draw: Arc<Draw>,
    stops: StopStrings,
    /// Longest completion.
    room: usize,
    pages: Vec<u32>,
    /// Pages promised to the next completion that starts.
    promised: usize,
    prefilled: usize,
    members: Vec<Member>,
    prompt_logprobs: Vec<f32>,
    top_prompt: Vec<Vec<TokenLogprob>>,
    failed: Option<SampleError>,
}

#[derive(Default)]
struct Member {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    top: Vec<Vec<TokenLogprob>>,
    stop: StopState,
    end: Option<(StopReason, Option<StopMatch>)>,
    decoding: bool,
}

/// A completion that is being decoded.
struct Live {
    group: u64,
    member: usize,
    pages: Vec<u32>,
    promised: usize,
    /// Tokens in the cache.
    len: usize,
    next: u32,
}

impl Group {
    fn new(id: u64, request: Request, cfg: &ModelConfig) -> Self {
        let filter = Filter {
            temperature: request.temperature,
            top_k: request.top_k,
            top_p: request.top_p,
        };
        Self {
            id,
            draw: Arc::new(Draw {
                filter,
                seed: request.seed,
                top: request.top_logprobs,
            }),
            stops: StopStrings::new(request.stop_strings.clone()),
            room: request.room(cfg),
            pages: Vec::new(),
            promised: 0,
            prefilled: 0,
            members: (0..request.n).map(|_| Member::default()).collect(),
            prompt_logprobs: if request.prompt_logprobs {
                vec![f32::NAN]
            } else {
                Vec::new()
            },
            top_prompt: if request.top_prompt_logprobs > 0 {
                vec![Vec::new()]
            } else {
                Vec::new()
            },
            failed: None,
            request,
        }
    }

    fn waiting(&self) -> impl Iterator<Item = usize> {
        self.members
            .iter()
            .enumerate()
            .filter(|(_, m)| m.end.is_none() && !m.decoding)
            .map(|(i, _)| i)
    }

    fn prompt_is_read(&self) -> bool {
        self.prefilled == self.request.prompt.len()
    }

    fn is_done(&self) -> bool {
        self.failed.is_some()
            || (self.prompt_is_read() && self.members.iter().all(|m| m.end.is_some()))
    }

    fn finish(self) -> Finished {
        let completion = |m: Member| {
            let (stop_reason, stop_match) = m.end.unwrap_or((StopReason::Cancelled, None));
            Completion {
                tokens: m.tokens,
                logprobs: m.logprobs,
                top_logprobs: m.top,
                stop_reason,
                stop_match,
            }
        };
        Finished {
            id: self.id,
            completions: self.members.into_iter().map(completion).collect(),
            prompt_logprobs: self.request.prompt_logprobs.then_some(self.prompt_logprobs),
            top_prompt_logprobs: self.top_prompt,
            error: self.failed,
        }
    }
}

/// Pages that a completion needs beside those of the prompt; `last`: it may write on in the prompt's own.
fn own_pages(prompt: usize, room: usize, last: bool) -> usize {
    // The last token is never fed back, so it needs no place; a single token is drawn from the prompt.
    if room <= 1 {
        return 0;
    }
    let shared = if last {
        prompt.div_ceil(PAGE)
    } else {
        prompt / PAGE
    };
    (prompt + room - 1).div_ceil(PAGE) - shared
}

/// Pages that a request needs to be let in.
fn first_pages(request: &Request, cfg: &ModelConfig) -> usize {
    let prompt = request.prompt.len();
    prompt.div_ceil(PAGE) + own_pages(prompt, request.room(cfg), request.n <= 1)
}

impl Scheduler {
    pub fn new(cfg: ModelConfig, token_bytes: Option<TokenBytes>) -> Self {
        Self {
            cfg,
            token_bytes,
            queue: VecDeque::new(),
            active: Vec::new(),
            live: Vec::new(),
            owners: Vec::new(),
            finished: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Refuse what can never run.
    pub fn check(
        request: &Request,
        cfg: &ModelConfig,
        knows_bytes: bool,
        pages: usize,
    ) -> Result<(), SampleError> {
        request.check(cfg, knows_bytes)?;
        let needed = first_pages(request, cfg);
        if needed > pages {
            return Err(SampleError::TooLarge {
                needed: needed * PAGE,
                available: pages * PAGE,
            });
        }
        Ok(())
    }

    pub fn submit(&mut self, id: u64, request: Request) {
        self.queue.push_back(Group::new(id, request, &self.cfg));
    }

    /// Unknown ids are none of its business: the request may have finished.
    pub fn cancel(&mut self, id: u64, pool: &mut Pool) {
        if let Some(at) = self.queue.iter().position(|group| group.id == id) {
            self.finished
                .extend(self.queue.remove(at).map(Group::finish));
        } else if let Some(at) = self.active.iter().position(|group| group.id == id) {
            self.retire(at, pool);
        }
    }

    /// Answers to the requests that are `mine`.
    pub fn take_finished(&mut self, mine: impl Fn(u64) -> bool) -> Vec<Finished> {
        let (taken, left) = std::mem::take(&mut self.finished)
            .into_iter()
            .partition(|finished| mine(finished.id));
        self.finished = left;
        taken
    }

    pub fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    pub fn stats(&self, pool: &Pool) -> Stats {
        let pending = self.queue.len() + self.active.len();
        Stats {
            pending,
            decoding: self.live.len(),
            pages_in_use: pool.in_use(),
            pages: pool.limit(),
            ..self.stats
        }
    }

    /// Take a group out, with all that it holds.
    fn retire(&mut self, at: usize, pool: &mut Pool) {
        let mut group = self.active.remove(at);
        pool.release(group.pages.drain(..));
        pool.withdraw(group.promised);
        let (gone, live) = std::mem::take(&mut self.live)
            .into_iter()
            .partition(|live| live.group == group.id);
        self.live = live;
        let gone: Vec<Live> = gone;
        for live in gone {
            pool.release(live.pages);
            pool.withdraw(live.promised);
        }
        self.finished.push(group.finish());
    }

    /// Write the next step; false when there is nothing to do.
    pub fn plan(&mut self, plan: &mut Plan, pool: &mut Pool) -> bool {
        plan.clear();
        self.owners.clear();
        self.start_members(pool);
        while let Some(group) = self.queue.front() {
            let needed = first_pages(&group.request, &self.cfg);
            if !pool.promise(needed) {
                break;
            }
            if let Some(mut group) = self.queue.pop_front() {
                let prompt = group.request.prompt.len().div_ceil(PAGE);
                group.pages.extend((0..prompt).map(|_| pool.take()));
                group.promised = needed - prompt;
                self.active.push(group);
            }
        }
        self.plan_decoding(plan, pool);
        self.plan_prompts(plan);
        plan.rows() > 0
    }

    /// Give completions that wait for room their pages.
    fn start_members(&mut self, pool: &mut Pool) {
        for group in self
            .active
            .iter_mut()
            .filter(|group| group.prompt_is_read())
        {
            let waiting: Vec<usize> = group.waiting().collect();
            for (i, member) in waiting.iter().enumerate() {
                let prompt = group.request.prompt.len();
                let last = i + 1 == waiting.len();
                let own = own_pages(prompt, group.room, last);
                if !(group.promised >= own || pool.promise(own - group.promised)) {
                    break;
                }
                let mut promised = group.promised.max(own);
                group.promised = 0;
                pool.withdraw(promised - own);
                promised = own;
                let pages = if last {
                    std::mem::take(&mut group.pages)
                } else {
                    let mut pages: Vec<u32> = group.pages[..prompt / PAGE]
                        .iter()
                        .map(|p| pool.share(*p))
                        .collect();
                    if !prompt.is_multiple_of(PAGE) {
                        let page = pool.take();
                        promised -= 1;
                        pool.copy(group.pages[prompt / PAGE], page);
                        pages.push(page);
                    }
                    pages
                };
                let state = &mut group.members[*member];
                state.decoding = true;
                let next = state.tokens.last().copied().unwrap_or_default();
                self.live.push(Live {
                    group: group.id,
                    member: *member,
                    pages,
                    promised,
                    len: prompt,
                    next,
                });
            }
        }
    }

    fn plan_decoding(&mut self, plan: &mut Plan, pool: &mut Pool) {
        for live in &mut self.live {
            if live.len == live.pages.len() * PAGE {
                live.pages.push(pool.take());
                live.promised -= 1;
            }
            let Some(group) = self.active.iter().find(|group| group.id == live.group) else {
                continue;
            };
            let row = plan.add_run(
                &[live.next],
                live.len,
                &live.pages,
                [self.cfg.n_heads, self.cfg.n_kv_heads],
            );
            let position = group.members[live.member].tokens.len() as u64;
            let task = Task::Sample {
                draw: Arc::clone(&group.draw),
                member: live.member as u32,
                position,
            };
            plan.add_job(row, task);
            self.owners.push(Owner::Completion {
                group: live.group,
                member: live.member,
            });
        }
    }

    fn plan_prompts(&mut self, plan: &mut Plan) {
        let mut budget = PREFILL;
        for group in &mut self.active {
            let prompt = &group.request.prompt;
            let (start, len) = (group.prefilled, budget.min(prompt.len() - group.prefilled));
            if len == 0 {
                continue;
            }
            budget -= len;
            group.prefilled += len;
            self.stats.tokens_prefilled += len as u64;
            let heads = [self.cfg.n_heads, self.cfg.n_kv_heads];
            let row = plan.add_run(&prompt[start..start + len], start, &group.pages, heads);
            if group.request.prompt_logprobs {
                for (i, target) in prompt
                    .iter()
                    .enumerate()
                    .take(start + len + 1)
                    .skip(start + 1)
                {
                    plan.add_job(
                        row + i - 1 - start,
                        Task::Score {
                            target: *target,
                            top: group.request.top_prompt_logprobs,
                        },
                    );
                    self.owners.push(Owner::Prompt {
                        group: group.id,
                        position: i,
                    });
                }
            }
            if start + len == prompt.len() {
                for member in 0..group.members.len() {
                    let task = Task::Sample {
                        draw: Arc::clone(&group.draw),
                        member: member as u32,
                        position: 0,
                    };
                    plan.add_job(row + len - 1, task);
                    self.owners.push(Owner::Completion {
                        group: group.id,
                        member,
                    });
                }
            }
        }
    }

    /// Take in what the step gave.
    pub fn absorb(&mut self, plan: &mut Plan, pool: &mut Pool) {
        self.stats.steps += 1;
        for live in &mut self.live {
            live.len += 1;
        }
        for (owner, outcome) in self.owners.drain(..).zip(plan.outcomes.drain(..)) {
            let (Owner::Completion { group: id, .. } | Owner::Prompt { group: id, .. }) = owner;
            let Some(group) = self.active.iter_mut().find(|group| group.id == id) else {
                continue;
            };
            let Some(outcome) = outcome.into_inner() else {
                continue;
            };
            match (outcome, owner) {
                (Outcome::NotFinite, Owner::Prompt { position, .. }) => {
                    group.failed = Some(SampleError::NotFinite { position });
                }
                (Outcome::NotFinite, Owner::Completion { member, .. }) => {
                    let position = group.request.prompt.len() + group.members[member].tokens.len();
                    group.failed = Some(SampleError::NotFinite { position });
                }
                (Outcome::Token { logprob, top, .. }, Owner::Prompt { .. }) => {
                    group.prompt_logprobs.push(logprob);
                    if group.request.top_prompt_logprobs > 0 {
                        group.top_prompt.push(top);
                    }
                }
                (
                    Outcome::Token {
                        token,
                        logprob,
                        top,
                    },
                    Owner::Completion { member, .. },
                ) => {
                    self.stats.tokens_sampled += 1;
                    group.take_token(member, token, logprob, top, self.token_bytes.as_deref());
                }
            }
        }
        self.clear_ended(pool);
    }

    /// Free what ended completions and requests hold.
    fn clear_ended(&mut self, pool: &mut Pool) {
        for live in std::mem::take(&mut self.live) {
            let member = self
                .active
                .iter()
                .find(|g| g.id == live.group)
                .map(|g| &g.members[live.member]);
            match member.and_then(|m| {
                m.end
                    .is_none()
                    .then(|| m.tokens.last().copied().unwrap_or_default())
            }) {
                Some(next) => self.live.push(Live { next, ..live }),
                None => {
                    pool.release(live.pages);
                    pool.withdraw(live.promised);
                }
            }
        }
        while let Some(at) = self.active.iter().position(Group::is_done) {
            self.retire(at, pool);
        }
        // The prompt's own pages are of no more use once nobody waits to start from them.
        for group in self
            .active
            .iter_mut()
            .filter(|group| group.prompt_is_read())
        {
            if group.waiting().next().is_none() {
                pool.release(group.pages.drain(..));
                pool.withdraw(std::mem::take(&mut group.promised));
            }
        }
    }
}

impl Group {
    fn take_token(
        &mut self,
        member: usize,
        token: u32,
        logprob: f32,
        top: Vec<TokenLogprob>,
        bytes: Option<&Vec<Vec<u8>>>,
    ) {
        let member = &mut self.members[member];
        member.tokens.push(token);
        member.logprobs.push(logprob);
        if self.request.top_logprobs > 0 {
            member.top.push(top);
        }
        let bytes = bytes
            .and_then(|table| table.get(token as usize))
            .map_or(&[][..], Vec::as_slice);
        if self.request.stop_ids.contains(&token) {
            member.end = Some((StopReason::Stop, Some(StopMatch::Token(token))));
        } else if let Some(found) = self.stops.push(&mut member.stop, bytes) {
            member.end = Some((StopReason::Stop, Some(StopMatch::String(found))));
        } else if member.tokens.len() >= self.room {
            member.end = Some((StopReason::Length, None));
        }
    }
}
