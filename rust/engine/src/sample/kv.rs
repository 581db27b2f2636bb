//! The KV cache: pages of LANES tokens that sequences share by counting references.
use crate::ModelConfig;

use super::buffer::Buffer;
use super::kernels::LANES;

/// Tokens of a page.
pub const PAGE: usize = LANES;

/// Where things lie in a page. Keys are `[layer][kv head][head_dim][PAGE]`, so that one register holds a
/// dimension of all keys; values are `[layer][kv head][head_dim / LANES][PAGE][LANES]`.
#[derive(Clone, Copy, Debug)]
pub struct PageShape {
    head_dim: usize,
    kv_heads: usize,
    layers: usize,
}

impl PageShape {
    pub fn new(cfg: &ModelConfig) -> Self {
        Self {
            head_dim: cfg.head_dim,
            kv_heads: cfg.n_kv_heads,
            layers: cfg.n_layers,
        }
    }

    /// Registers that hold the values of a head.
    fn chunks(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    fn head_len(&self) -> usize {
        (self.head_dim + self.chunks() * LANES) * PAGE
    }

    pub fn len(&self) -> usize {
        self.layers * self.kv_heads * self.head_len()
    }

    pub fn keys(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.kv_heads + kv_head) * self.head_len()
    }

    /// Values of dimensions `chunk * LANES..`.
    pub fn values(&self, layer: usize, kv_head: usize, chunk: usize) -> usize {
        self.keys(layer, kv_head) + (self.head_dim + chunk * LANES) * PAGE
    }
}

/// All pages, at most a fixed number; memory is taken when a page is first used.
pub struct Pool {
    shape: PageShape,
    pages: Vec<Buffer>,
    references: Vec<u32>,
    free: Vec<u32>,
    limit: usize,
    /// Pages promised to sequences and not yet taken.
    promised: usize,
}

impl Pool {
    pub fn new(shape: PageShape, limit: usize) -> Self {
        Self {
            shape,
            pages: Vec::new(),
            references: Vec::new(),
            free: Vec::new(),
            limit,
            promised: 0,
        }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn in_use(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    /// Set pages aside for later `take`s; false when there are too few.
    pub fn promise(&mut self, pages: usize) -> bool {
        let fits = self.in_use() + self.promised + pages <= self.limit;
        if fits {
            self.promised += pages;
        }
        fits
    }

    /// Give back pages that were promised and are not needed.
    pub fn withdraw(&mut self, pages: usize) {
        self.promised -= pages;
    }

    /// Take one promised page.
    pub fn take(&mut self) -> u32 {
        self.promised -= 1;
        let page = self.free.pop().unwrap_or_else(|| {
            self.pages.push(Buffer::new(self.shape.len()));
            self.references.push(0);
            self.pages.len() as u32 - 1
        });
        self.references[page as usize] = 1;
        page
    }

    pub fn share(&mut self, page: u32) -> u32 {
        self.references[page as usize] += 1;
        page
    }

    pub fn release(&mut self, pages: impl IntoIterator<Item = u32>) {
        for page in pages {
            self.references[page as usize] -= 1;
            if self.references[page as usize] == 0 {
                self.free.push(page);
            }
        }
    }

    /// Copy the whole of a page.
    pub fn copy(&mut self, from: u32, to: u32) {
        // SAFETY: `&mut self`: no step runs; the two pages are different buffers.
        unsafe {
            let len = self.shape.len();
            self.pages[to as usize]
                .slice_mut(0, len)
                .copy_from_slice(self.pages[from as usize].slice(0, len));
        }
    }

    pub fn page(&self, page: u32) -> *mut f32 {
        self.pages[page as usize].ptr()
    }
}
