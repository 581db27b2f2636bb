//! Datums from episodes: one sequence as long as each turn's prompt extends what came before.

use rayon::prelude::*;

use crate::ragged::{Rows, same_length};
use crate::{KernelError, Result};

/// The advantages that the sampled tokens get.
#[derive(Clone, Copy, Debug)]
pub enum Advantages<'a> {
    /// [E]: one for all sampled tokens of an episode.
    PerEpisode(&'a [f64]),
    /// Along `actions`.
    PerToken(&'a [f32]),
}

/// E episodes as N transitions. Transition i saw `observations[i]`, the whole prompt, and sampled
/// `actions[action_offsets[i]..]`; episode e is transitions `episode_offsets[e]..episode_offsets[e + 1]`.
///
/// Observations come as they lie, for they are the bulk: of an episode of k turns they hold most tokens
/// about k / 2 times, of which all but one are only compared.
#[derive(Clone, Copy, Debug)]
pub struct Episodes<'a> {
    pub observations: &'a [&'a [i32]],
    pub actions: &'a [i32],
    pub action_offsets: &'a [i64],
    /// Along `actions`: natural log, under the policy that sampled.
    pub logprobs: &'a [f32],
    pub episode_offsets: &'a [i64],
    pub advantages: Advantages<'a>,
    /// [N]: whether the action is not to be trained on.
    pub masked: &'a [bool],
    /// [N].
    pub policy_versions: &'a [i32],
}

/// D datums, each column concatenated. Position t of a datum holds the token, the target that follows
/// it, and the columns *of that target*.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assembled {
    /// [D + 1].
    pub offsets: Vec<i64>,
    /// [D].
    pub episodes: Vec<i64>,
    pub tokens: Vec<i32>,
    pub targets: Vec<i32>,
    /// 1 where the target was sampled and is trained on, else 0.
    pub weights: Vec<f32>,
    /// As sampled, bit for bit; 0 where not sampled.
    pub logprobs: Vec<f32>,
    /// 0 where the weight is 0.
    pub advantages: Vec<f32>,
    /// The turn, from 0 in each episode, that brought the target: as its observation or its action.
    pub turns: Vec<i32>,
    pub sampled: Vec<bool>,
    /// -1 where not sampled.
    pub policy_versions: Vec<i32>,
}

/// A datum: transitions `first..end`, those without action left out.
struct Plan {
    episode: usize,
    first: usize,
    end: usize,
    length: usize,
}

/// Assembles datums. Within an episode a transition joins the running datum when its observation
/// begins with the whole of it (observations, actions and all, token for token), and otherwise starts
/// the next one: so a sampled token is in exactly one datum, and no token is decoded or encoded again.
/// A transition that sampled nothing takes no part. Then the sequence is shifted by one: inputs are
/// all tokens but the last, targets all but the first.
///
/// An empty observation before an action is refused (nothing predicts the first token), as are NaN or
/// infinite logprobs and advantages, by transition or episode and index.
pub fn assemble(episodes: &Episodes) -> Result<Assembled> {
    let input = Input::new(episodes)?;
    let plans = input.plan()?;
    let mut offsets = Vec::with_capacity(plans.len() + 1);
    offsets.push(0i64);
    let mut total = 0;
    for plan in &plans {
        total += plan.length;
        offsets.push(total as i64);
    }
    let mut out = Assembled {
        offsets,
        episodes: plans.iter().map(|p| p.episode as i64).collect(),
        tokens: vec![0; total],
        targets: vec![0; total],
        weights: vec![0.0; total],
        logprobs: vec![0.0; total],
        advantages: vec![0.0; total],
        turns: vec![0; total],
        sampled: vec![false; total],
        policy_versions: vec![0; total],
    };
    let mut rest = Columns::of(&mut out);
    let mut jobs = Vec::with_capacity(plans.len());
    for plan in &plans {
        let (head, tail) = rest.split(plan.length);
        jobs.push((plan, head));
        rest = tail;
    }
    if total < 1 << 15 {
        jobs.into_iter()
            .for_each(|(plan, columns)| input.fill(plan, columns));
    } else {
        jobs.into_par_iter()
            .for_each(|(plan, columns)| input.fill(plan, columns));
    }
    Ok(out)
}

struct Input<'a> {
    e: &'a Episodes<'a>,
    actions: Rows<'a>,
    rows: Rows<'a>,
}

impl<'a> Input<'a> {
    fn new(e: &'a Episodes<'a>) -> Result<Self> {
        let actions = Rows::new("action offsets", e.action_offsets, e.actions.len())?;
        let n = e.observations.len();
        same_length("action offsets", actions.count(), n, "transitions")?;
        let rows = Rows::new("episode offsets", e.episode_offsets, n)?;
        same_length(
            "logprobs",
            e.logprobs.len(),
            e.actions.len(),
            "action tokens",
        )?;
        same_length("masked", e.masked.len(), n, "transitions")?;
        same_length("policy versions", e.policy_versions.len(), n, "transitions")?;
        let bad = |what, row, index, value| {
            Err(KernelError::Value {
                what,
                row,
                index,
                value,
                why: "must be finite",
            })
        };
        let place = |at: usize| {
            let row = e.action_offsets.partition_point(|o| *o as usize <= at) - 1;
            (row, at - actions.range(row).start)
        };
        if let Some(at) = e.logprobs.iter().position(|x| !x.is_finite()) {
            let (row, index) = place(at);
            return bad(
                "logprobs (rows are transitions)",
                row,
                index,
                f64::from(e.logprobs[at]),
            );
        }
        match e.advantages {
            Advantages::PerEpisode(a) => {
                same_length("advantages", a.len(), rows.count(), "episodes")?;
                if let Some(row) = a.iter().position(|x| !(*x as f32).is_finite()) {
                    return bad("advantages (rows are episodes)", row, 0, a[row]);
                }
            }
            Advantages::PerToken(a) => {
                same_length("advantages", a.len(), e.actions.len(), "action tokens")?;
                if let Some(at) = a.iter().position(|x| !x.is_finite()) {
                    let (row, index) = place(at);
                    return bad(
                        "advantages (rows are transitions)",
                        row,
                        index,
                        f64::from(a[at]),
                    );
                }
            }
        }
        Ok(Self { e, actions, rows })
    }

    fn observation(&self, i: usize) -> &'a [i32] {
        self.e.observations[i]
    }

    fn action(&self, i: usize) -> &'a [i32] {
        &self.e.actions[self.actions.range(i)]
    }

    /// Whether the observation of `next` begins with the observation and action of `last`, which are
    /// together the running sequence.
    fn extends(&self, last: usize, next: usize) -> bool {
        self.observation(next)
            .strip_prefix(self.observation(last))
            .is_some_and(|rest| rest.starts_with(self.action(last)))
    }

    fn plan(&self) -> Result<Vec<Plan>> {
        let mut plans: Vec<Plan> = Vec::new();
        for (episode, transitions) in self.rows.iter().enumerate() {
            let mut last: Option<usize> = None;
            for i in transitions {
                if self.action(i).is_empty() {
                    continue;
                }
                if self.observation(i).is_empty() {
                    let why =
                        "has an action but an empty observation: no token predicts its first token";
                    return Err(KernelError::Row {
                        row: i,
                        why: format!("transition {i} {why}"),
                    });
                }
                let length = self.observation(i).len() + self.action(i).len() - 1;
                match (last, plans.last_mut()) {
                    (Some(before), Some(plan)) if self.extends(before, i) => {
                        plan.end = i + 1;
                        plan.length = length;
                    }
                    _ => plans.push(Plan {
                        episode,
                        first: i,
                        end: i + 1,
                        length,
                    }),
                }
                last = Some(i);
            }
        }
        Ok(plans)
    }

    fn fill(&self, plan: &Plan, mut out: Columns) {
        let first_of_episode = self.rows.range(plan.episode).start;
        let mut at = 0; // tokens of the sequence written so far
        for i in plan.first..plan.end {
            let action = self.action(i);
            if action.is_empty() {
                continue;
            }
            let turn = (i - first_of_episode) as i32;
            let fresh = &self.observation(i)[at..];
            out.write_tokens(at, fresh);
            let seen = at.max(1) - 1..at + fresh.len() - 1; // targets that the observation brought
            out.turns[seen.clone()].fill(turn);
            out.policy_versions[seen].fill(-1);
            at += fresh.len();

            out.write_tokens(at, action);
            let acted = at - 1..at + action.len() - 1;
            let flat = self.actions.range(i);
            out.turns[acted.clone()].fill(turn);
            out.policy_versions[acted.clone()].fill(self.e.policy_versions[i]);
            out.sampled[acted.clone()].fill(true);
            out.logprobs[acted.clone()].copy_from_slice(&self.e.logprobs[flat.clone()]);
            if !self.e.masked[i] {
                out.weights[acted.clone()].fill(1.0);
                match self.e.advantages {
                    Advantages::PerEpisode(a) => out.advantages[acted].fill(a[plan.episode] as f32),
                    Advantages::PerToken(a) => out.advantages[acted].copy_from_slice(&a[flat]),
                }
            }
            at += action.len();
        }
    }
}

/// One datum's part of every column.
struct Columns<'a> {
    tokens: &'a mut [i32],
    targets: &'a mut [i32],
    weights: &'a mut [f32],
    logprobs: &'a mut [f32],
    advantages: &'a mut [f32],
    turns: &'a mut [i32],
    sampled: &'a mut [bool],
    policy_versions: &'a mut [i32],
}

impl<'a> Columns<'a> {
    fn of(out: &'a mut Assembled) -> Self {
        Self {
            tokens: &mut out.tokens,
            targets: &mut out.targets,
            weights: &mut out.weights,
            logprobs: &mut out.logprobs,
            advantages: &mut out.advantages,
            turns: &mut out.turns,
            sampled: &mut out.sampled,
            policy_versions: &mut out.policy_versions,
        }
    }

    fn split(self, n: usize) -> (Self, Self) {
        let (tokens, tokens_rest) = self.tokens.split_at_mut(n);
        let (targets, targets_rest) = self.targets.split_at_mut(n);
        let (weights, weights_rest) = self.weights.split_at_mut(n);
        let (logprobs, logprobs_rest) = self.logprobs.split_at_mut(n);
        let (advantages, advantages_rest) = self.advantages.split_at_mut(n);
        let (turns, turns_rest) = self.turns.split_at_mut(n);
        let (sampled, sampled_rest) = self.sampled.split_at_mut(n);
        let (policy_versions, policy_versions_rest) = self.policy_versions.split_at_mut(n);
        let head = Self {
            tokens,
            targets,
            weights,
            logprobs,
            advantages,
            turns,
            sampled,
            policy_versions,
        };
        let tail = Self {
            tokens: tokens_rest,
            targets: targets_rest,
            weights: weights_rest,
            logprobs: logprobs_rest,
            advantages: advantages_rest,
            turns: turns_rest,
            sampled: sampled_rest,
            policy_versions: policy_versions_rest,
        };
        (head, tail)
    }

    /// Tokens `at..` of the sequence: inputs at their place (the last one of all is none), targets one
    /// place before (the first one of all is none).
    fn write_tokens(&mut self, at: usize, tokens: &[i32]) {
        let inputs = tokens.len().min(self.tokens.len() - at);
        self.tokens[at..at + inputs].copy_from_slice(&tokens[..inputs]);
        let skip = usize::from(at == 0).min(tokens.len());
        self.targets[at + skip - 1..at + tokens.len() - 1].copy_from_slice(&tokens[skip..]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Turn {
        observation: Vec<i32>,
        action: Vec<i32>,
        masked: bool,
    }

    /// Episodes whose observations often, but not always, extend what came before.
    fn episodes() -> impl Strategy<Value = Vec<Vec<Turn>>> {
        let turn = (
            prop::collection::vec(0..3i32, 1..4),
            prop::collection::vec(0..3i32, 0..4),
            any::<bool>(),
            prop::bool::weighted(0.8),
        );
        prop::collection::vec(prop::collection::vec(turn, 0..5), 0..4).prop_map(|episodes| {
            let build = |turns: Vec<(Vec<i32>, Vec<i32>, bool, bool)>| {
                let mut running: Vec<i32> = Vec::new();
                let mut out = Vec::new();
                for (fresh, action, masked, extend) in turns {
                    let mut observation = if extend { running.clone() } else { Vec::new() };
                    observation.extend(fresh);
                    if !action.is_empty() {
                        running = [observation.clone(), action.clone()].concat();
                    }
                    out.push(Turn {
                        observation,
                        action,
                        masked,
                    });
                }
                out
            };
            episodes.into_iter().map(build).collect()
        })
    }

    fn run(episodes: &[Vec<Turn>]) -> (Assembled, Vec<f32>) {
        let turns: Vec<&Turn> = episodes.iter().flatten().collect();
        let offsets = |lengths: Vec<usize>| {
            let mut o = vec![0i64];
            for n in lengths {
                o.push(o[o.len() - 1] + n as i64);
            }
            o
        };
        let actions: Vec<i32> = turns.iter().flat_map(|t| t.action.clone()).collect();
        let logprobs: Vec<f32> = (0..actions.len()).map(|i| -(i as f32) - 0.5).collect();
        let advantages: Vec<f64> = (0..episodes.len()).map(|e| e as f64 + 1.0).collect();
        let out = assemble(&Episodes {
            observations: &turns
                .iter()
                .map(|t| t.observation.as_slice())
                .collect::<Vec<_>>(),
            actions: &actions,
            action_offsets: &offsets(turns.iter().map(|t| t.action.len()).collect()),
            logprobs: &logprobs,
            episode_offsets: &offsets(episodes.iter().map(Vec::len).collect()),
            advantages: Advantages::PerEpisode(&advantages),
            masked: &turns.iter().map(|t| t.masked).collect::<Vec<_>>(),
            policy_versions: &(0..turns.len() as i32).collect::<Vec<_>>(),
        })
        .unwrap();
        (out, logprobs)
    }

    proptest! {
        #[test]
        fn each_sampled_token_is_trained_once_with_its_logprob(episodes in episodes()) {
            let (out, logprobs) = run(&episodes);
            let trained: Vec<f32> = (0..out.tokens.len()).filter(|t| out.sampled[*t]).map(|t| out.logprobs[t]).collect();
            prop_assert_eq!(trained, logprobs);
            for t in 0..out.tokens.len() {
                if !out.sampled[t] {
                    prop_assert_eq!((out.weights[t], out.logprobs[t], out.advantages[t]), (0.0, 0.0, 0.0));
                    prop_assert_eq!(out.policy_versions[t], -1);
                }
            }
        }

        #[test]
        fn datums_are_the_running_sequences_shifted_by_one(episodes in episodes()) {
            let (out, _) = run(&episodes);
            // The reference builds each running sequence by copying, as the definition says.
            let mut expected: Vec<(usize, Vec<i32>)> = Vec::new();
            for (e, turns) in episodes.iter().enumerate() {
                let mut fresh = true;
                for t in turns.iter().filter(|t| !t.action.is_empty()) {
                    let next = [t.observation.clone(), t.action.clone()].concat();
                    match expected.last_mut() {
                        Some((_, running)) if !fresh && t.observation.starts_with(running) => *running = next,
                        _ => expected.push((e, next)),
                    }
                    fresh = false;
                }
            }
            prop_assert_eq!(out.offsets.len(), expected.len() + 1);
            for (d, (e, sequence)) in expected.iter().enumerate() {
                let row = out.offsets[d] as usize..out.offsets[d + 1] as usize;
                prop_assert_eq!(out.episodes[d], *e as i64);
                prop_assert_eq!(&out.tokens[row.clone()], &sequence[..sequence.len() - 1]);
                prop_assert_eq!(&out.targets[row.clone()], &sequence[1..]);
                prop_assert!(out.turns[row].is_sorted());
            }
        }
    }

    #[test]
    fn bad_input_is_refused_by_transition_and_index() {
        let good = Episodes {
            observations: &[&[1], &[2]],
            actions: &[3, 4, 5],
            action_offsets: &[0, 1, 3],
            logprobs: &[-1.0; 3],
            episode_offsets: &[0, 2],
            advantages: Advantages::PerEpisode(&[1.0]),
            masked: &[false; 2],
            policy_versions: &[0; 2],
        };
        let message = |e: Episodes| assemble(&e).unwrap_err().to_string();
        assert!(assemble(&good).is_ok());
        assert!(
            message(Episodes {
                logprobs: &[0.0, 0.0, f32::NAN],
                ..good
            })
            .contains("row 1, index 1")
        );
        assert!(
            message(Episodes {
                advantages: Advantages::PerEpisode(&[f64::NAN]),
                ..good
            })
            .contains("row 0")
        );
        assert!(
            message(Episodes {
                advantages: Advantages::PerToken(&[0.0]),
                ..good
            })
            .contains("length 1")
        );
        assert!(
            message(Episodes {
                observations: &[&[1, 2], &[]],
                ..good
            })
            .contains("transition 1")
        );
        assert!(
            message(Episodes {
                episode_offsets: &[0, 3],
                ..good
            })
            .contains("end at 3")
        );
    }
}
