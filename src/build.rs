//! Embeds the web page: every file of `web/dist`, where `./build.sh` builds it, becomes an entry of `ASSETS`.
//!
//! `dist/index.html` is `/`, `dist/assets/x.js` is `/assets/x.js`; `x.js.gz` beside it is its gzip copy. Without a
//! built page `web/fallback.html` is `/`, so that cargo alone builds the program, too.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let web = root.join("web");
    let dist = web.join("dist");
    // cargo takes a watched path that is missing for changed, and would build the program anew each time. Where
    // the sources can't be written, it does.
    drop(fs::create_dir_all(&dist));
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=web/fallback.html");
    println!("cargo::rerun-if-changed=web/dist");
    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        collect(&dist, &mut files)?;
    }
    let mut entries: Vec<(String, PathBuf)> = Vec::new();
    for file in files {
        let name = file.strip_prefix(&dist)?.to_str().ok_or("a name in web/dist is not UTF-8")?;
        let url = if name == "index.html" { "/".to_owned() } else { format!("/{name}") };
        entries.push((url, file));
    }
    if entries.is_empty() {
        entries.push(("/".to_owned(), web.join("fallback.html")));
    }
    entries.sort();
    let mut table = String::from("/// Every embedded file.\npub static ASSETS: &[Asset] = &[\n");
    for (url, file) in &entries {
        let Some(content_type) = content_type(file) else { continue };
        let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("web/ is not UTF-8");
        let compressed = PathBuf::from(format!("{}.gz", text(file)?));
        let gzip = if compressed.is_file() {
            format!("Some(include_bytes!({:?}))", text(&compressed)?)
        } else {
            "None".to_owned()
        };
        writeln!(
            table,
            "    Asset {{ path: {url:?}, content_type: {content_type:?}, body: include_bytes!({:?}), \
             gzip: {gzip} }},",
            text(file)?
        )?;
    }
    table.push_str("];\n");
    fs::write(Path::new(&std::env::var("OUT_DIR")?).join("assets.rs"), table)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// `None` for what no browser loads by its name, such as the gzip copies.
fn content_type(file: &Path) -> Option<&'static str> {
    match file.extension()?.to_str()? {
        "html" => Some("text/html; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        "png" => Some("image/png"),
        "ico" => Some("image/x-icon"),
        _ => None,
    }
}
