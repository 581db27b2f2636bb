//! A model packed for inference.
use std::sync::Arc;

use memmap2::MmapMut;
use rayon::prelude::*;

use crate::rope::Rope;
use crate::{ModelConfig, Weights};

use super::kernels::{Kernels, LANES, Line};

/// Matrices are copied into panels; vectors and the embedding table are read where they are.
pub struct Model {
    pub cfg: ModelConfig,
    pub weights: Arc<Weights<f32>>,
    pub layers: Vec<Layer>,
    pub head: Packed,
    pub rope: Rope,
    pub kernels: Kernels,
    panels: MmapMut,
}

pub struct Layer {
    pub qkv: Packed,
    pub o: Packed,
    pub gate_up: Packed,
    pub down: Packed,
}

/// A matrix `[out, in]` as panels of LANES output columns, `[panel][in][LANES]`, in pairs: a tile of the
/// product reads each panel of a pair as one stream. Columns that the last pair lacks are zero.
#[derive(Clone, Copy)]
pub struct Packed {
    /// In lines.
    start: usize,
    /// Inputs.
    pub k: usize,
    pub pairs: usize,
}

/// A panel to be filled: its line, and the rows of the matrix from its first column on.
struct Panel<'a> {
    start: usize,
    k: usize,
    rows: &'a [f32],
}

/// Where each panel goes.
#[derive(Default)]
struct Layout<'a> {
    lines: usize,
    panels: Vec<Panel<'a>>,
}

impl<'a> Layout<'a> {
    /// Columns in their order.
    fn matrix(&mut self, matrix: &'a [f32], k: usize) -> Packed {
        let pairs = (matrix.len() / k).div_ceil(2 * LANES);
        self.add(k, pairs, |panel| {
            &matrix[(panel * LANES * k).min(matrix.len())..]
        })
    }

    /// The two halves of `matrix` side by side: panel 2p holds columns of the first, 2p + 1 of the second.
    fn halves(&mut self, matrix: &'a [f32], k: usize) -> Packed {
        let halves = matrix.split_at(matrix.len() / 2);
        let pairs = (halves.0.len() / k).div_ceil(LANES);
        self.add(k, pairs, |panel| {
            &[halves.0, halves.1][panel % 2][panel / 2 * LANES * k..]
        })
    }

    fn add(&mut self, k: usize, pairs: usize, rows_of: impl Fn(usize) -> &'a [f32]) -> Packed {
        let start = self.lines;
        let panel = |panel| Panel {
            start: start + panel * k,
            k,
            rows: rows_of(panel),
        };
        self.panels.extend((0..2 * pairs).map(panel));
        self.lines += 2 * pairs * k;
        Packed { start, k, pairs }
    }

    /// Copy everything, on the threads of the current rayon pool.
    fn fill(self) -> std::io::Result<MmapMut> {
        let mut map = MmapMut::map_anon(self.lines * size_of::<Line>())?;
        // A step reads all of it from end to end: with small pages much of the time goes into finding them.
        #[cfg(target_os = "linux")]
        if map.advise(memmap2::Advice::HugePage).is_err() {
            // A kernel without huge pages: slower, and as right.
        }
        // SAFETY: a mapping is aligned to pages, and zeros are a Line.
        let mut rest =
            unsafe { std::slice::from_raw_parts_mut(map.as_mut_ptr().cast::<Line>(), self.lines) };
        let mut parts = Vec::with_capacity(self.panels.len());
        for panel in &self.panels {
            let (lines, after) = rest.split_at_mut(panel.k);
            debug_assert_eq!(panel.start + panel.k + after.len(), self.lines);
            parts.push((panel, lines));
            rest = after;
        }
        parts
            .into_par_iter()
            .for_each(|(panel, lines)| panel.fill(lines));
        Ok(map)
    }
}

impl Panel<'_> {
    /// Transposed in pieces that stay in the nearest cache.
    fn fill(&self, lines: &mut [Line]) {
        for (piece, lines) in lines.chunks_mut(128).enumerate() {
            for (column, row) in self.rows.chunks_exact(self.k).take(LANES).enumerate() {
                for (line, x) in lines.iter_mut().zip(&row[piece * 128..]) {
                    line.0[column] = *x;
                }
            }
        }
    }
}

impl Model {
    /// Packs on the threads of the current rayon pool; fails when there is no memory.
    pub fn new(
        cfg: ModelConfig,
        weights: Arc<Weights<f32>>,
        kernels: Kernels,
    ) -> std::io::Result<Self> {
        let mut layout = Layout::default();
        let layers = weights.layers.iter().map(|layer| Layer {
            qkv: layout.matrix(&layer.qkv, cfg.hidden),
            o: layout.matrix(&layer.o, cfg.q_dim()),
            gate_up: layout.halves(&layer.gate_up, cfg.hidden),
            down: layout.matrix(&layer.down, cfg.intermediate),
        });
        let layers = layers.collect();
        let head = layout.matrix(weights.head(), cfg.hidden);
        let panels = layout.fill()?;
        let rope = Rope::new(&cfg);
        Ok(Self {
            cfg,
            weights,
            layers,
            head,
            rope,
            kernels,
            panels,
        })
    }

    /// The two panels of a pair.
    pub fn pair(&self, packed: &Packed, pair: usize) -> [*const f32; 2] {
        let panel = |panel: usize| {
            let bytes = (packed.start + panel * packed.k) * size_of::<Line>();
            self.panels[bytes..bytes + packed.k * size_of::<Line>()]
                .as_ptr()
                .cast()
        };
        [panel(2 * pair), panel(2 * pair + 1)]
    }
}
