//! A growing slot of a cache, most of it encoded.

use super::Codebook;
use super::pack::{pack, unpack};
use super::uniform::{self, Affine, Axis};
use burn::tensor::{Int, Tensor};
use kernels::ProductCodes;

/// How a block is encoded.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a slot
pub(crate) enum BlockCodec {
    Uniform { bits: usize, axis: Axis },
    Product(Codebook),
}

/// `[batch, heads, time, channels]`: whole blocks, then the newest tokens as they came.
#[derive(Clone, Debug)]
pub(crate) struct CodedSlot {
    codec: BlockCodec,
    /// Tokens of a block.
    block: usize,
    blocks: Option<Blocks>,
    recent: Tensor<4>,
    /// Of all that is held.
    shape: [usize; 4],
}

/// Encoded blocks.
#[derive(Clone, Debug)]
struct Blocks {
    /// Packed, `[batch, heads, blocks, time, bytes]`.
    codes: Tensor<5, Int>,
    /// Of a uniform codec.
    affine: Option<Affine>,
}

impl CodedSlot {
    pub fn new(codec: BlockCodec, block: usize, first: Tensor<4>) -> Self {
        Self { codec, block, blocks: None, shape: first.dims(), recent: first }
    }

    /// Appends tokens, which stay as they are at least until the next ones come, and drops blocks of
    /// which none of the last `most` tokens is a part.
    pub fn push(&mut self, tokens: Tensor<4>, most: Option<usize>) {
        let held = self.recent.dims()[2];
        let full = held / self.block * self.block;
        for first in (0..full).step_by(self.block) {
            let new = self.codec.encode(self.recent.clone().narrow(2, first, self.block));
            self.blocks = Some(match self.blocks.take() {
                Some(past) => past.followed_by(new),
                None => new,
            });
        }
        self.recent = match held - full {
            0 => tokens,
            rest => Tensor::cat(vec![self.recent.clone().narrow(2, full, rest), tokens], 2),
        };
        let recent = self.recent.dims()[2];
        let count = self.blocks.as_ref().map_or(0, Blocks::count);
        let needed = most.map_or(count, |most| most.saturating_sub(recent).div_ceil(self.block).min(count));
        self.blocks = self.blocks.take().filter(|_| needed > 0).map(|blocks| blocks.last(needed));
        self.shape[2] = needed * self.block + recent;
    }

    /// All tokens, the encoded ones as their codes give them back.
    pub fn read(&self) -> Tensor<4> {
        let Some(blocks) = &self.blocks else { return self.recent.clone() };
        let past = match &self.codec {
            BlockCodec::Product(_) => self.product_codes().expect("blocks of a product codec").reconstruct(),
            BlockCodec::Uniform { bits, .. } => {
                let codes = unpack(blocks.codes.clone(), *bits, self.shape[3]);
                uniform::decode(codes, blocks.affine.as_ref().expect("made by a uniform codec")).flatten(2, 3)
            }
        };
        Tensor::cat(vec![past, self.recent.clone()], 2)
    }

    /// The codes of all encoded tokens, where there are any and the codec is a product's.
    pub fn product_codes(&self) -> Option<ProductCodes> {
        let (Some(blocks), BlockCodec::Product(book)) = (&self.blocks, &self.codec) else { return None };
        let codes = unpack(blocks.codes.clone(), book.bits(), book.subspaces());
        Some(book.codes(codes.flatten(2, 3), &self.recent))
    }

    /// The tokens after the encoded ones.
    pub fn recent(&self) -> Tensor<4> {
        self.recent.clone()
    }

    pub fn shape(&self) -> &[usize; 4] {
        &self.shape
    }

    pub fn bytes(&self) -> usize {
        self.encoded().0 + self.recent.shape().num_elements() * self.recent.dtype().size()
    }

    /// Bytes of the encoded tokens, and how many numbers they stand for.
    pub fn encoded(&self) -> (usize, usize) {
        let numbers = self.shape.iter().product::<usize>() - self.recent.shape().num_elements();
        (self.blocks.as_ref().map_or(0, Blocks::bytes), numbers)
    }
}

impl BlockCodec {
    /// One block from `[batch, heads, time, channels]`.
    fn encode(&self, x: Tensor<4>) -> Blocks {
        match self {
            Self::Uniform { bits, axis } => {
                let (codes, affine) = uniform::encode(x.unsqueeze_dim(2), *bits, *axis);
                Blocks { codes: pack(codes, *bits), affine: Some(affine) }
            }
            Self::Product(book) => Blocks { codes: pack(book.encode(x), book.bits()).unsqueeze_dim(2), affine: None },
        }
    }
}

impl Blocks {
    fn count(&self) -> usize {
        self.codes.dims()[2]
    }

    fn bytes(&self) -> usize {
        let codes = self.codes.shape().num_elements() * self.codes.dtype().size();
        let affine = self.affine.iter().flat_map(|affine| [&affine.scale, &affine.minimum]);
        codes + affine.map(|x| x.shape().num_elements() * x.dtype().size()).sum::<usize>()
    }

    fn followed_by(self, new: Self) -> Self {
        let join = |past, new| Tensor::cat(vec![past, new], 2);
        let affine = self
            .affine
            .zip(new.affine)
            .map(|(past, new)| Affine { scale: join(past.scale, new.scale), minimum: join(past.minimum, new.minimum) });
        Self { codes: Tensor::cat(vec![self.codes, new.codes], 2), affine }
    }

    fn last(self, count: usize) -> Self {
        let first = self.count() - count;
        let keep = |x: Tensor<5>| x.narrow(2, first, count);
        let affine = self.affine.map(|Affine { scale, minimum }| Affine { scale: keep(scale), minimum: keep(minimum) });
        Self { codes: self.codes.narrow(2, first, count), affine }
    }
}
