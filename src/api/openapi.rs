//! `GET /api/v1/openapi.json`: the API's own description, a file that is written by hand.

use super::Reply;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`
pub fn get() -> Reply {
    Reply::Bytes { content_type: "application/json", body: DOCUMENT.as_bytes(), headers: &[] }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use miniserde::json::{Number, Object, Value, from_str};

    use super::*;
    use crate::api::route::{Method, Route, parse_route};
    use crate::api::{pictures, query, streams};
    use crate::config::{settings, stream};

    fn document() -> Value {
        from_str(DOCUMENT).expect("valid JSON")
    }

    fn object(value: &Value) -> &Object {
        match value {
            Value::Object(object) => object,
            other => panic!("no object: {other:?}"),
        }
    }

    fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
        path.iter().fold(value, |value, key| match object(value).get(*key) {
            Some(inner) => inner,
            None => panic!("no {key} of {path:?}"),
        })
    }

    fn number(value: &Value) -> u64 {
        match value {
            Value::Number(Number::U64(n)) => *n,
            other => panic!("no number: {other:?}"),
        }
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = object(value).keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[track_caller]
    fn check_range(path: &[&str], want: &RangeInclusive<u64>) {
        let document = document();
        let field = at(&document, path);
        let got = number(at(field, &["minimum"]))..=number(at(field, &["maximum"]));
        assert_eq!(&got, want, "{path:?}");
    }

    #[test]
    fn paths_and_methods_are_those_of_the_routes() {
        let document = document();
        let mut count = 0;
        for (path, operations) in object(at(&document, &["paths"])) {
            let route = parse_route(&path.replace("{id}", "7").replace("{file}", "seg_7.m4s"));
            assert_ne!(route, Route::NotFound, "{path}");
            let mut documented: Vec<String> =
                keys(operations).iter().map(|name| name.to_uppercase()).collect();
            documented.sort();
            let mut served: Vec<&str> =
                route.allow().split(", ").filter(|name| *name != "HEAD").collect();
            served.sort_unstable();
            assert_eq!(documented, served, "{path}");
            assert!(route.methods().iter().all(|method| *method != Method::Other));
            count += 1;
        }
        assert_eq!(count, 24, "a route is not documented");
    }

    #[test]
    fn ranges_are_those_that_are_checked() {
        for schema in ["NewStream", "StreamPatch", "Stream"] {
            let field = |name| ["components", "schemas", schema, "properties", name];
            check_range(&field("width"), &stream::SIDE_RANGE);
            check_range(&field("height"), &stream::SIDE_RANGE);
            check_range(&field("fps"), &stream::FPS_RANGE);
            check_range(&field("priority"), &stream::PRIORITY_RANGE);
            check_range(&field("retention_days"), &settings::RETENTION_DAYS_RANGE);
            check_range(&field("max_storage_size"), &settings::MAX_STORAGE_SIZE_RANGE);
        }
        for schema in ["Settings", "SettingsPatch"] {
            let field = |name| ["components", "schemas", schema, "properties", name];
            check_range(&field("max_storage_size"), &settings::MAX_STORAGE_SIZE_RANGE);
            check_range(&field("retention_days"), &settings::RETENTION_DAYS_RANGE);
            check_range(&field("web_port"), &settings::WEB_PORT_RANGE);
            check_range(&field("max_streams"), &settings::MAX_STREAMS_RANGE);
            check_range(&field("buffer_size"), &settings::BUFFER_SIZE_RANGE);
            check_range(&field("swap_size"), &settings::SWAP_SIZE_RANGE);
            check_range(&field("segment_seconds"), &settings::SEGMENT_SECONDS_RANGE);
            check_range(&field("hls_window_seconds"), &settings::HLS_WINDOW_SECONDS_RANGE);
            check_range(&field("max_viewers"), &settings::MAX_VIEWERS_RANGE);
        }
        let document = document();
        let list = at(&document, &["paths", "/api/v1/recordings", "get", "parameters"]);
        let Value::Array(parameters) = list else { panic!("no list") };
        let names: Vec<String> = parameters.iter().map(|p| text(at(p, &["name"]))).collect();
        assert_eq!(names.join(", "), query::KNOWN);
        let path = ["paths", "/api/v1/streams/{id}/ledger", "get", "parameters"];
        let Value::Array(of_ledger) = at(&document, &path) else { panic!("no list") };
        let names: Vec<String> = of_ledger[1..].iter().map(|p| text(at(p, &["name"]))).collect();
        assert_eq!(names.join(", "), query::LEDGER_KNOWN);
        let limit = parameters.iter().find(|p| text(at(p, &["name"])) == "limit").expect("limit");
        assert_eq!(number(at(limit, &["schema", "maximum"])), *query::LIMIT_RANGE.end());
    }

    #[test]
    fn ranges_of_pictures_are_those_that_are_checked() {
        let document = document();
        let check = |path: &str, name: &str, want: &RangeInclusive<u64>| {
            let Value::Array(parameters) = at(&document, &["paths", path, "get", "parameters"])
            else {
                panic!("no list")
            };
            let parameter = parameters.iter().find(|p| text(at(p, &["name"])) == name);
            let schema = at(parameter.expect("the parameter"), &["schema"]);
            let got = number(at(schema, &["minimum"]))..=number(at(schema, &["maximum"]));
            assert_eq!(&got, want, "{path} {name}");
        };
        check("/api/v1/streaming/{id}/mjpeg", "width", &pictures::WIDTH_RANGE);
        check("/api/v1/streaming/{id}/mjpeg", "fps", &pictures::FPS_RANGE);
        check("/api/v1/streaming/{id}/snapshot.jpg", "width", &pictures::WIDTH_RANGE);
    }

    fn text(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            other => panic!("no text: {other:?}"),
        }
    }

    #[test]
    fn a_stream_can_be_put_back_as_it_was_got() {
        let document = document();
        let of = |name| keys(at(&document, &["components", "schemas", name, "properties"]));
        assert_eq!(of("Stream"), of("StreamPatch"));
        assert_eq!(of("Stream"), of("NewStream"));
        assert_eq!(of("Settings"), of("SettingsPatch"));
        assert_eq!(of("Recording"), of("RecordingPatch"));
        assert!(streams::READ_ONLY.iter().all(|name| of("StreamPatch").contains(name)));
    }

    #[test]
    fn the_version_is_the_program_s() {
        assert_eq!(text(at(&document(), &["info", "version"])), crate::VERSION);
    }
}
