//! Threads that walk a step together: phases of independent items, a barrier after each.
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A pool whose threads all run the same function at once.
pub struct Team {
    pool: rayon::ThreadPool,
    gate: Gate,
}

/// Alone on its cache line.
#[repr(align(128))]
struct Padded<T>(T);

/// What the threads share within a phase.
pub struct Gate {
    threads: usize,
    arrived: Padded<AtomicUsize>,
    generation: Padded<AtomicUsize>,
    next_item: Padded<AtomicUsize>,
    poisoned: AtomicBool,
}

/// Spins before a waiting thread starts to give its core away.
const SPINS: usize = 4_000;

impl Team {
    pub fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("sampler-{i}"))
            .build()?;
        let gate = Gate {
            threads,
            arrived: Padded(AtomicUsize::new(0)),
            generation: Padded(AtomicUsize::new(0)),
            next_item: Padded(AtomicUsize::new(0)),
            poisoned: AtomicBool::new(false),
        };
        Ok(Self { pool, gate })
    }

    pub fn pool(&self) -> &rayon::ThreadPool {
        &self.pool
    }

    /// Run `work(thread, gate)` on every thread; returns when all are done. A panic in one ends all.
    pub fn run(&self, work: impl Fn(usize, &Gate) + Sync) {
        self.pool.broadcast(|context| {
            let poison = PoisonOnPanic(&self.gate);
            work(context.index(), &self.gate);
            drop(poison);
        });
    }
}

struct PoisonOnPanic<'a>(&'a Gate);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Release);
        }
    }
}

impl Gate {
    /// Every thread waits for all others; what they wrote before is seen after.
    #[expect(
        clippy::panic,
        reason = "ends the other threads of a step in which one has panicked"
    )]
    pub fn wait(&self) {
        let generation = self.generation.0.load(Ordering::Acquire);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.next_item.0.store(0, Ordering::Relaxed);
            self.generation
                .0
                .store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.generation.0.load(Ordering::Acquire) == generation {
            if self.poisoned.load(Ordering::Acquire) {
                panic!("another thread of this sampler panicked");
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// One phase: each item goes to whichever thread is free; all threads leave together.
    pub fn phase(&self, items: usize, mut work: impl FnMut(usize)) {
        loop {
            let item = self.next_item.0.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            work(item);
        }
        self.wait();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn each_item_of_each_phase_runs_once_and_phases_do_not_overlap() {
        for threads in 1..4 {
            let team = Team::new(threads).unwrap();
            let counts: Vec<AtomicU32> = (0..100).map(|_| AtomicU32::new(0)).collect();
            team.run(|_, gate| {
                for phase in 0..50 {
                    gate.phase(counts.len(), |i| {
                        let other = counts[(i + 7) % 100].load(Ordering::Relaxed);
                        assert!(other == phase || other == phase + 1);
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 50));
        }
    }

    #[test]
    fn a_panic_in_one_thread_ends_all_and_reaches_the_caller() {
        let team = Team::new(2).unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(|_, gate| gate.phase(10, |i| assert!(i < 5, "item five")));
        }));
        assert!(caught.is_err());
    }
}
