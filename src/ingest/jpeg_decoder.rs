//! The decoder of JPEG for cameras whose pictures are encoded anew: zune-jpeg, and nothing of it leaks.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::jpeg_header;
use super::picture_core::Picture;

/// The picture in `data`, if it is of the size that the camera's driver named; else why there is none.
pub fn decode(data: Vec<u8>, width: usize, height: usize) -> Result<Picture, String> {
    let whole = jpeg_header::whole(data).ok_or("no JPEG")?;
    if (usize::from(whole.width), usize::from(whole.height)) != (width, height) {
        return Err(format!("{}x{}, want {width}x{height}", whole.width, whole.height));
    }
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::YCbCr);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&whole.data), options);
    let samples = decoder.decode().map_err(|error| format!("{error:?}"))?;
    let is_right = decoder.output_colorspace() == Some(ColorSpace::YCbCr)
        && decoder.dimensions() == Some((width, height));
    let picture = Picture::from_jpeg_samples(&samples, width, height).filter(|_| is_right);
    picture.ok_or_else(|| "a picture without the three planes of YCbCr".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::media_tool::{TempDir, run};

    #[test]
    fn a_jpeg_of_ffmpeg_becomes_a_picture_of_its_colour() {
        let dir = TempDir::new();
        let path = dir.path("red.jpg");
        let colour = "color=c=red:s=64x48,format=yuvj420p";
        run("ffmpeg", &["-v", "error", "-f", "lavfi", "-i", colour, "-frames:v", "1", &path]);
        let data = std::fs::read(&path).expect("ffmpeg wrote it");
        let picture = decode(data.clone(), 64, 48).expect("decodes");
        assert_eq!((picture.width, picture.height), (64, 48));
        // Red in limited BT.601: 81, 90, 240.
        let near = |got: u8, want: u8| got.abs_diff(want) <= 3;
        assert!(near(picture.y[100], 81) && near(picture.u[100], 90) && near(picture.v[100], 240));
        assert!(decode(data.clone(), 64, 64).is_err(), "another size");
        assert!(decode(vec![1, 2, 3], 64, 48).is_err());
        let half = data[..data.len() / 2].to_vec();
        let _ = decode(half, 64, 48);
    }
}
