//! The table of what cameras do: `tests/golden/quirks/*.quirk`, one behaviour in a file; `tests/golden/hostile`
//! has those that mean harm, or might as well.
//!
//! A file is lines of words; a `#` begins a comment, and lines that begin with `|` are text of the line
//! before them. First comes what the recorder must make of it:
//!
//! - `row N`: the row of the list of quirks that it stands for.
//! - `clip NAME`: what the camera films. `url TEXT`: what the stream is configured with.
//! - `login USER PASSWORD`: the camera answers 401 with the challenge of its `|` lines (`$NONCE`) to what is
//!   not signed.
//! - `transport WORD`: the stream's setting.
//! - `want WHAT ...`: see `Want`.
//!
//! Then what the camera does on each connection, or, behind `connection`, on the first, the second ..., the
//! last of which stands for all that follow:
//!
//! - `on METHOD STATUS`, `once METHOD STATUS`: answers so, with the `|` lines as header fields in place of its
//!   own; `!Name` leaves one of its own out. STATUS may be `close` or `none`.
//! - `sdp`: its `|` lines are the description.
//! - `lifeline SECONDS METHOD...`: hangs up unless one of these comes so often, with the session if one of
//!   them is `session`.
//! - `need NAME`: a request without this header field is answered with 401.
//! - `patience SECONDS`: hangs up when what it sends is not taken for so long; it keeps little itself.
//! - `over`: the runner may look when this connection has ended.
//! - `play`: what follows is done one after the other once PLAY was answered (`quirk_camera.rs`).

use std::fs;

use super::rig::test_file;

/// A line with the text that belongs to it.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub words: Vec<String>,
    pub text: Vec<String>,
}

impl Line {
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    #[track_caller]
    pub fn number(&self, at: usize) -> f64 {
        let word = self.word(at);
        word.parse().unwrap_or_else(|_| panic!("want a number in {:?}, got {word:?}", self.words))
    }
}

/// What one connection is like.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub rules: Vec<Line>,
    pub acts: Vec<Line>,
}

/// What must come of it.
#[derive(Clone, Debug)]
pub struct Want {
    /// `want connections N` or `N-M` or `N-`.
    pub connections: (usize, usize),
    /// `want files N`: recordings.
    pub files: usize,
    /// `want pictures N` or `N-M` or `N-`: in all recordings.
    pub pictures: (usize, usize),
    /// `want sound N-M`: frames of sound, in all recordings.
    pub sound: Option<(usize, usize)>,
    /// `want ledger STATE ...`: between the begin of the first recording and the end of the last.
    pub ledger: Vec<String>,
    /// `want damage`: ffmpeg may have something to say about the pictures.
    pub is_damaged: bool,
    /// `want duration N-M`: seconds of all recordings.
    pub seconds: Option<(f64, f64)>,
    /// `want said TEXT`, `want unsaid TEXT`: what the recorder sends.
    pub said: Vec<String>,
    pub unsaid: Vec<String>,
    /// `want advice TEXT`: a part of it. Without it there must be none.
    pub advice: Vec<String>,
    /// `want more advice`: or any other.
    pub has_more_advice: bool,
    /// `want detail TEXT`: of `status_detail`, when the camera is through.
    pub detail: Option<String>,
}

/// One file.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub clip: String,
    pub url: String,
    pub transport: Option<String>,
    pub login: Option<Line>,
    pub want: Want,
    pub connections: Vec<Connection>,
}

/// All cases of `tests/golden/DIR`, or those that `QUIRK` names.
pub fn load_all(dir: &str) -> Vec<Case> {
    let only = std::env::var("QUIRK").unwrap_or_default();
    let dir = fs::read_dir(test_file("golden").join(dir)).expect("the table is there");
    let mut cases = Vec::new();
    for entry in dir {
        let path = entry.expect("a directory that can be read").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if name.contains(&only) {
            cases.push(parse(name, &fs::read_to_string(&path).expect("a text")));
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn lines_of(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        match line.trim_start().strip_prefix('|') {
            Some(text) => {
                let owner = lines.last_mut().expect("a line in front of its text");
                owner.text.push(text.strip_prefix(' ').unwrap_or(text).to_owned());
            }
            None => {
                let words = line.split_whitespace().map(str::to_owned).collect();
                lines.push(Line { words, text: Vec::new() });
            }
        }
    }
    lines
}

fn parse(name: String, text: &str) -> Case {
    let mut case = Case {
        clip: "h264".to_owned(),
        url: "rtsp://$HOST/stream".to_owned(),
        transport: None,
        login: None,
        want: Want {
            connections: (1, 1),
            files: 1,
            pictures: (0, 0),
            sound: None,
            ledger: vec!["recorded".to_owned()],
            is_damaged: false,
            seconds: None,
            said: Vec::new(),
            unsaid: Vec::new(),
            advice: Vec::new(),
            has_more_advice: false,
            detail: None,
        },
        connections: Vec::new(),
        name,
    };
    let (mut common, mut is_playing, mut has_sections) = (Vec::new(), false, false);
    let mut has_row = false;
    for line in lines_of(text) {
        match line.word(0) {
            "row" => has_row = true,
            "clip" if !is_playing => case.clip = line.word(1).to_owned(),
            "url" => case.url = line.word(1).to_owned(),
            "transport" => case.transport = Some(line.word(1).to_owned()),
            "login" => case.login = Some(line),
            "want" => note_want(&mut case.want, &line, &case.name),
            "connection" => {
                let rules = common.clone();
                case.connections.push(Connection { rules, acts: Vec::new() });
                (is_playing, has_sections) = (false, true);
            }
            "play" => {
                is_playing = true;
                if !has_sections {
                    case.connections.push(Connection { rules: common.clone(), acts: Vec::new() });
                }
            }
            _ => match case.connections.last_mut() {
                Some(connection) if is_playing => connection.acts.push(line),
                Some(connection) => connection.rules.push(line),
                None => common.push(line),
            },
        }
    }
    assert!(has_row && !case.connections.is_empty(), "{}: not a whole case", case.name);
    case
}

fn note_want(want: &mut Want, line: &Line, name: &str) {
    let rest = || line.words[2..].join(" ");
    match line.word(1) {
        "connections" => want.connections = range(line.word(2)),
        "files" => want.files = line.number(2) as usize,
        "pictures" => want.pictures = range(line.word(2)),
        "sound" => want.sound = Some(range(line.word(2))),
        "ledger" => want.ledger = line.words[2..].to_vec(),
        "damage" => want.is_damaged = true,
        "duration" => {
            let (from, to) = line.word(2).split_once('-').expect("want duration N-M");
            let number = |text: &str| text.parse().expect("a number of seconds");
            want.seconds = Some((number(from), number(to)));
        }
        "said" => want.said.push(rest()),
        "unsaid" => want.unsaid.push(rest()),
        "more" => want.has_more_advice = true,
        "advice" => want.advice.push(rest()),
        "detail" => want.detail = Some(rest()),
        other => panic!("{name}: want {other:?}?"),
    }
}

/// `5`, `5-7` or `5-`.
fn range(text: &str) -> (usize, usize) {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("not a number: {text:?}"));
    match text.split_once('-') {
        Some((from, "")) => (number(from), usize::MAX),
        Some((from, to)) => (number(from), number(to)),
        None => (number(text), number(text)),
    }
}
