//! A stream's configuration: fields, defaults, ranges.

use crate::media::format::VideoCodec;

/// Longest `url` in bytes.
pub const URL_BYTES_MAX: usize = 1024;
/// Longest `name` in characters.
pub const NAME_CHARS_MAX: usize = 64;

/// One configured stream, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    pub id: u32,
    pub name: String,
    /// With the camera's password in it: never logged, never answered; `url_masked` is for people.
    pub url: String,
    pub enabled: bool,
    /// Wished picture size and rate, 0 for "as the source sends".
    pub width: u16,
    pub height: u16,
    pub fps: u16,
    pub codec: VideoCodec,
    /// 0 to 100, higher matters more.
    pub priority: u8,
    pub record: bool,
}

/// Any subset of the changeable fields: the body of POST and PUT, each field already in its range.
/// The url may hold `***` as password, which only a PUT can resolve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamPatch {
    pub name: Option<String>,
    pub url: Option<String>,
    pub enabled: Option<bool>,
    pub width: Option<u16>,
    pub height: Option<u16>,
    pub fps: Option<u16>,
    pub codec: Option<VideoCodec>,
    pub priority: Option<u8>,
    pub record: Option<bool>,
}
