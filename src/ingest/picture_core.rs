//! A picture on its way to the encoder: planar YUV 4:2:0, made from what cameras deliver unencoded.
//!
//! In here: YUYV, NV12 and decoded JPEG to planes, and another size. Not in here: which of them a camera is asked
//! for (`v4l2_core.rs`), the codecs (`encoder.rs`, `jpeg_decoder.rs`). Keeps PURE-CORE. What comes in is of a driver:
//! rows that are too short, or not there, give `None`.

/// No colour.
const CHROMA_NONE: u8 = 128;

/// Rows without padding, chroma of half width and height, limited range (BT.601).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Even, in pixels.
    pub width: usize,
    pub height: usize,
    pub y: Vec<u8>,
    pub u: Vec<u8>,
    pub v: Vec<u8>,
}

impl Picture {
    /// One shade without colour; the sides are even.
    pub fn grey(width: usize, height: usize, luma: u8) -> Self {
        let chroma = vec![CHROMA_NONE; width / 2 * (height / 2)];
        Self { width, height, y: vec![luma; width * height], u: chroma.clone(), v: chroma }
    }

    /// From packed YUV 4:2:2, bytes `Y0 U Y1 V` (`V4L2_PIX_FMT_YUYV`), rows `stride` bytes apart. An odd last column
    /// or row is left out.
    pub fn from_yuyv(data: &[u8], width: usize, height: usize, stride: usize) -> Option<Self> {
        let mut picture = Self::grey(width & !1, height & !1, 0);
        let (width, height) = (picture.width, picture.height);
        check(data.len(), width * 2, height, stride)?;
        for row in 0..height {
            let from = data.get(row * stride..)?.get(..width * 2)?;
            let luma = picture.y.get_mut(row * width..)?.get_mut(..width)?;
            for (pair, out) in from.chunks_exact(4).zip(luma.chunks_exact_mut(2)) {
                (out[0], out[1]) = (pair[0], pair[2]);
            }
            // Of two rows the upper one's colour is taken: the eye does not see the difference, the processor does.
            if row % 2 == 0 {
                let at = row / 2 * (width / 2);
                for (n, pair) in from.chunks_exact(4).enumerate() {
                    (picture.u[at + n], picture.v[at + n]) = (pair[1], pair[3]);
                }
            }
        }
        Some(picture)
    }

    /// From a plane of luma and one of chroma pairs behind it (`V4L2_PIX_FMT_NV12`), rows of both `stride` bytes apart.
    pub fn from_nv12(data: &[u8], width: usize, height: usize, stride: usize) -> Option<Self> {
        let mut picture = Self::grey(width & !1, height & !1, 0);
        let chroma = data.get(stride.checked_mul(height)?..)?;
        let (width, height) = (picture.width, picture.height);
        check(data.len(), width, height, stride)?;
        check(chroma.len(), width, height / 2, stride)?;
        for row in 0..height {
            let from = data.get(row * stride..)?.get(..width)?;
            picture.y.get_mut(row * width..)?.get_mut(..width)?.copy_from_slice(from);
        }
        for row in 0..height / 2 {
            let at = row * (width / 2);
            for (n, pair) in chroma.get(row * stride..)?.get(..width)?.chunks_exact(2).enumerate() {
                (picture.u[at + n], picture.v[at + n]) = (pair[0], pair[1]);
            }
        }
        Some(picture)
    }

    /// From three bytes a pixel in full range, as a JPEG decodes (JFIF), rows without padding.
    pub fn from_jpeg_samples(data: &[u8], width: usize, height: usize) -> Option<Self> {
        let mut picture = Self::grey(width & !1, height & !1, 0);
        let stride = width.checked_mul(3)?;
        let (width, height) = (picture.width, picture.height);
        check(data.len(), width * 3, height, stride)?;
        for row in 0..height {
            let from = data.get(row * stride..)?.get(..width * 3)?;
            let luma = picture.y.get_mut(row * width..)?.get_mut(..width)?;
            for (pixel, out) in from.chunks_exact(3).zip(luma) {
                *out = limited(pixel[0], 16, 219);
            }
            if row % 2 == 0 {
                let at = row / 2 * (width / 2);
                for (n, pair) in from.chunks_exact(6).enumerate() {
                    let mean = |plane: usize| pair[plane].midpoint(pair[plane + 3]);
                    picture.u[at + n] = limited(mean(1), 16, 224);
                    picture.v[at + n] = limited(mean(2), 16, 224);
                }
            }
        }
        Some(picture)
    }

    /// The same picture in another size; the sides are even and not 0.
    pub fn scaled(self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        let (from, to) = ((self.width, self.height), (width, height));
        let half = |(width, height)| (width / 2, height / 2);
        Self {
            width,
            height,
            y: scale(&self.y, from, to),
            u: scale(&self.u, half(from), half(to)),
            v: scale(&self.v, half(from), half(to)),
        }
    }

    /// Panics where the planes don't have the size that the picture says.
    #[cfg(test)]
    fn check(&self) {
        assert!(self.width.is_multiple_of(2) && self.height.is_multiple_of(2));
        assert_eq!(self.y.len(), self.width * self.height);
        assert_eq!(self.u.len(), self.width / 2 * (self.height / 2));
        assert_eq!(self.v.len(), self.u.len());
    }
}

/// Whether `len` bytes hold `rows` rows of `row` bytes that are `stride` apart; the last may end early.
fn check(len: usize, row: usize, rows: usize, stride: usize) -> Option<()> {
    let before_last = stride.checked_mul(rows.checked_sub(1)?)?;
    (row > 0 && row <= stride && before_last.checked_add(row)? <= len).then_some(())
}

/// A sample of full range in `range` steps above `floor`.
fn limited(sample: u8, floor: u32, range: u32) -> u8 {
    (floor + (u32::from(sample) * range + 127) / 255) as u8 // at most 240
}

/// Each sample of the result is the mean of those that lie under it, or the nearest one.
fn scale(plane: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let span = |n: usize, from: usize, to: usize| {
        let start = n * from / to;
        start..((n + 1) * from / to).max(start + 1)
    };
    let mut out = Vec::with_capacity(to.0 * to.1);
    for y in 0..to.1 {
        let rows = span(y, from.1, to.1);
        for x in 0..to.0 {
            let columns = span(x, from.0, to.0);
            let count = (rows.len() * columns.len()) as u32;
            let sum: u32 = rows
                .clone()
                .flat_map(|row| &plane[row * from.0 + columns.start..row * from.0 + columns.end])
                .map(|&sample| u32::from(sample))
                .sum();
            out.push(((sum + count / 2) / count) as u8);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn yuyv_is_taken_apart() {
        // Two rows of two pixels, and two bytes of padding behind each.
        let data = [10, 100, 20, 200, 0, 0, 30, 101, 40, 201, 0, 0];
        let picture = Picture::from_yuyv(&data, 2, 2, 6).expect("long enough");
        assert_eq!(picture.y, [10, 20, 30, 40]);
        assert_eq!((&picture.u[..], &picture.v[..]), (&[100][..], &[200][..]));
        assert_eq!(Picture::from_yuyv(&data[..9], 2, 2, 6), None, "the last row is too short");
        assert_eq!(Picture::from_yuyv(&data, 2, 2, 3), None, "rows cannot overlap");
    }

    #[test]
    fn nv12_is_taken_apart() {
        let data = [10, 20, 9, 30, 40, 9, 100, 200, 9];
        let picture = Picture::from_nv12(&data, 2, 2, 3).expect("long enough");
        assert_eq!(picture.y, [10, 20, 30, 40]);
        assert_eq!((&picture.u[..], &picture.v[..]), (&[100][..], &[200][..]));
        assert_eq!(Picture::from_nv12(&data[..7], 2, 2, 3), None);
    }

    #[test]
    fn a_jpeg_loses_its_full_range() {
        let data = [0, 128, 0, 255, 128, 255, 128, 0, 0, 128, 0, 0];
        let picture = Picture::from_jpeg_samples(&data, 2, 2).expect("long enough");
        assert_eq!(picture.y, [16, 235, 126, 126]);
        assert_eq!((picture.u[0], picture.v[0]), (128, 128));
    }

    #[test]
    fn a_picture_is_made_smaller_by_means_and_larger_by_neighbours() {
        let mut picture = Picture::grey(4, 4, 0);
        picture.y = (0..16).map(|n| n * 10).collect();
        let small = picture.clone().scaled(2, 2);
        assert_eq!(small.y, [25, 45, 105, 125]);
        let large = small.scaled(4, 4);
        assert_eq!(large.y[..4], [25, 25, 45, 45]);
        large.check();
        assert_eq!(picture.clone().scaled(4, 4), picture);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_picture_of_the_size_or_none(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            width in 0usize..40,
            height in 0usize..12,
            stride in prop_oneof![0usize..90, Just(usize::MAX)],
            to in (1usize..20, 1usize..20),
        ) {
            let made = [
                Picture::from_yuyv(&data, width, height, stride),
                Picture::from_nv12(&data, width, height, stride),
                Picture::from_jpeg_samples(&data, width, height),
            ];
            for picture in made.into_iter().flatten() {
                picture.check();
                prop_assert_eq!((picture.width, picture.height), (width & !1, height & !1));
                let scaled = picture.scaled(to.0 * 2, to.1 * 2);
                scaled.check();
            }
        }

        #[test]
        fn a_shade_stays_what_it_is(luma in any::<u8>(), from in (1usize..20, 1usize..20), to in (1usize..20, 1usize..20)) {
            let scaled = Picture::grey(from.0 * 2, from.1 * 2, luma).scaled(to.0 * 2, to.1 * 2);
            prop_assert_eq!(scaled, Picture::grey(to.0 * 2, to.1 * 2, luma));
        }
    }
}
