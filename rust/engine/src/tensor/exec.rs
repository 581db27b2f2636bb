//! Who does the work inside one operation: the calling thread alone, or all threads of a pool.
use rayon::prelude::*;

/// Either way the same numbers come out: work is only ever split into disjoint outputs.
#[derive(Clone, Copy)]
pub enum Exec<'a> {
    Serial,
    Pool(&'a rayon::ThreadPool),
}

impl Exec<'_> {
    pub fn threads(&self) -> usize {
        match self {
            Exec::Serial => 1,
            Exec::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Runs `work` for every index below `n`.
    pub fn each(&self, n: usize, work: impl Fn(usize) + Sync + Send) {
        match self {
            Exec::Serial => (0..n).for_each(work),
            Exec::Pool(pool) => {
                pool.install(|| (0..n).into_par_iter().with_max_len(1).for_each(work))
            }
        }
    }

    /// Cuts `out` in runs of whole units (`unit` elements each), one run a thread, and hands each run with the
    /// index of its first unit to `work`.
    pub fn runs<T: Send>(
        &self,
        out: &mut [T],
        unit: usize,
        work: impl Fn(usize, &mut [T]) + Sync + Send,
    ) {
        match self {
            Exec::Serial => work(0, out),
            Exec::Pool(pool) => {
                let units = (out.len() / unit.max(1)).max(1);
                let run = units.div_ceil(pool.current_num_threads());
                pool.install(|| {
                    out.par_chunks_mut(run * unit)
                        .enumerate()
                        .for_each(|(i, part)| work(i * run, part));
                });
            }
        }
    }
}

/// A pointer to an output that tasks write at disjoint places.
pub struct Shared<T>(*mut T, usize);

// SAFETY: `Shared` only carries the pointer; `slice` states the disjointness its callers keep.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(data: &mut [T]) -> Self {
        Self(data.as_mut_ptr(), data.len())
    }

    /// # Safety
    /// No two live slices overlap, and the slice owner of `new` outlives them.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.1);
        // SAFETY: in bounds by the assertion, disjoint by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
