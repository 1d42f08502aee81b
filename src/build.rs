//! Embeds the web page: every file below `web/` that a browser loads becomes an entry of `ASSETS`.
//!
//! Plain files, no tool: `web/index.html` is `/`, `web/src/x.js` is `/src/x.js`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let web = root.join("web");
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=web/index.html");
    println!("cargo::rerun-if-changed=web/src");
    let mut files = vec![web.join("index.html")];
    collect(&web.join("src"), &mut files)?;
    let mut entries: Vec<(String, &str, PathBuf)> = Vec::new();
    for file in files {
        let name =
            file.strip_prefix(&web)?.to_str().ok_or("a name in web/ is not UTF-8")?.to_owned();
        let Some(content_type) = content_type(&file) else { continue };
        let url = if name == "index.html" { "/".to_owned() } else { format!("/{name}") };
        entries.push((url, content_type, file));
    }
    entries.sort();
    let mut table = String::from("/// Every embedded file.\npub static ASSETS: &[Asset] = &[\n");
    for (url, content_type, file) in &entries {
        writeln!(
            table,
            "    Asset {{ path: {url:?}, content_type: {content_type:?}, body: include_bytes!({:?}) }},",
            file.to_str().ok_or("the path of web/ is not UTF-8")?
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

/// `None` for what no browser loads.
fn content_type(file: &Path) -> Option<&'static str> {
    match file.extension()?.to_str()? {
        "html" => Some("text/html; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        "png" => Some("image/png"),
        "ico" => Some("image/x-icon"),
        "woff2" => Some("font/woff2"),
        _ => None,
    }
}
