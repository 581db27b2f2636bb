//! One step, as the scheduler writes it and the threads read it.
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::choose::Filter;
use super::kernels::ROWS;
use super::request::TokenLogprob;

/// Tokens to run through the model together: those being decoded and pieces of prompts.
#[derive(Default)]
pub struct Plan {
    /// `[rows]`
    pub tokens: Vec<u32>,
    /// `[rows]`, index in the sequence.
    pub positions: Vec<usize>,
    /// `[rows]`, which run a row is of.
    pub run_of: Vec<u32>,
    pub runs: Vec<Run>,
    /// Page tables of all runs.
    pub pages: Vec<u32>,
    pub attention: Vec<AttentionItem>,
    /// Rows whose logits are wanted, ascending.
    pub heads: Vec<u32>,
    pub jobs: Vec<Job>,
    /// `[jobs]`
    pub outcomes: Vec<OnceLock<Outcome>>,
}

/// Consecutive tokens of one sequence.
pub struct Run {
    pub row: usize,
    /// Into `Plan::pages`.
    pub pages: Range<usize>,
}

/// Up to ROWS queries of one key head: query head `i % group` of the run's token `i / group`, for i in `queries`.
pub struct AttentionItem {
    pub run: usize,
    pub kv_head: usize,
    pub queries: Range<usize>,
}

/// What is to be done with the logits of `Plan::heads[head]`.
pub struct Job {
    pub head: usize,
    pub task: Task,
}

pub enum Task {
    Sample {
        draw: Arc<Draw>,
        member: u32,
        position: u64,
    },
    Score {
        target: u32,
        top: usize,
    },
}

/// How the tokens of a request are drawn.
pub struct Draw {
    pub filter: Filter,
    pub seed: u64,
    pub top: usize,
}

pub enum Outcome {
    Token {
        token: u32,
        logprob: f32,
        top: Vec<TokenLogprob>,
    },
    NotFinite,
}

impl Plan {
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.run_of.clear();
        self.runs.clear();
        self.pages.clear();
        self.attention.clear();
        self.heads.clear();
        self.jobs.clear();
        self.outcomes.clear();
    }

    /// Add tokens of one sequence that has `position` tokens before them; gives the first one's row.
    pub fn add_run(
        &mut self,
        tokens: &[u32],
        position: usize,
        pages: &[u32],
        heads: [usize; 2],
    ) -> usize {
        let [query_heads, kv_heads] = heads;
        let (row, run, first_page) = (self.rows(), self.runs.len(), self.pages.len());
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(position..position + tokens.len());
        self.run_of.resize(row + tokens.len(), run as u32);
        self.pages.extend_from_slice(pages);
        self.runs.push(Run {
            row,
            pages: first_page..self.pages.len(),
        });
        let queries = tokens.len() * (query_heads / kv_heads);
        for kv_head in 0..kv_heads {
            for start in (0..queries).step_by(ROWS) {
                self.attention.push(AttentionItem {
                    run,
                    kv_head,
                    queries: start..queries.min(start + ROWS),
                });
            }
        }
        row
    }

    /// Ask for the logits of a row, which is the last asked for or comes after it.
    pub fn add_job(&mut self, row: usize, task: Task) {
        if self.heads.last() != Some(&(row as u32)) {
            self.heads.push(row as u32);
        }
        self.jobs.push(Job {
            head: self.heads.len() - 1,
            task,
        });
        self.outcomes.push(OnceLock::new());
    }
}
