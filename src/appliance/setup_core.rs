//! The owner's `lightnvr-setup.txt` on the boot partition: `name = value` lines, written on any computer.
//!
//! In here: reading it, what each value may be, taking the secrets out of the text, and the configuration of Wi-Fi
//! that follows from it. Pure. A line that is wrong is named and left out; the others count.

use std::net::{IpAddr, Ipv4Addr};

/// A longer file is not one that a person wrote.
pub const SETUP_BYTES_MAX: usize = 16 << 10;
const NTP_MAX: usize = 4;
/// As for a password that is changed on the page.
const PASSWORD_CHARS_MIN: usize = 10;
const PASSWORD_BYTES_MAX: usize = 256;
/// RFC 1035 section 2.3.4.
const HOST_NAME_BYTES_MAX: usize = 63;
/// IEEE 802.11 clause 9.4.2.2.
const SSID_BYTES_MAX: usize = 32;
const NAMES: [&str; 11] = [
    "hostname",
    "timezone",
    "wifi_country",
    "wifi_ssid",
    "wifi_password",
    "address",
    "gateway",
    "name_server",
    "ntp",
    "time_server",
    "password",
];
const SECRETS: [&str; 2] = ["wifi_password", "password"];

/// What the file says. What is missing, empty or wrong is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    pub hostname: Option<String>,
    pub timezone: Option<String>,
    pub wifi_country: Option<String>,
    pub wifi_ssid: Option<String>,
    pub wifi_password: Option<String>,
    /// Address and bits of its network.
    pub address: Option<(Ipv4Addr, u8)>,
    pub gateway: Option<Ipv4Addr>,
    pub name_server: Option<IpAddr>,
    /// Names or addresses of time servers.
    pub ntp: Vec<String>,
    /// Whether cameras may ask this device for the time.
    pub time_server: bool,
    pub password: Option<String>,
}

/// A file as it was read: values, what was wrong in it, and its text without secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub setup: Setup,
    /// One line each, which names the line and what is allowed, and repeats no secret.
    pub faults: Vec<String>,
    /// The text to be written back; `None` when there was no secret in it.
    pub blanked: Option<String>,
}

/// Reads the file. Any bytes are fine: editors leave a byte order mark, CRLF and their own character sets.
pub fn read(bytes: &[u8]) -> Read {
    let mut out = Read::default();
    let cut = &bytes[..bytes.len().min(SETUP_BYTES_MAX)];
    if cut.len() < bytes.len() {
        out.faults.push(format!("only the first {SETUP_BYTES_MAX} bytes were read"));
    }
    let text = String::from_utf8_lossy(cut);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut kept = String::with_capacity(text.len());
    let mut is_blanked = false;
    for (at, line) in text.split_inclusive('\n').enumerate() {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) if !line.trim_start().starts_with('#') => {
                (name.trim(), value.trim())
            }
            _ => {
                if !line.trim().is_empty() && !line.trim_start().starts_with('#') {
                    out.faults.push(format!("line {}: want NAME = VALUE", at + 1));
                }
                kept.push_str(line);
                continue;
            }
        };
        if SECRETS.contains(&name) && !value.is_empty() {
            // Also one that was refused: what the owner meant as a password stays on no card.
            kept.push_str(&format!("{name} =\n"));
            is_blanked = true;
        } else {
            kept.push_str(line);
        }
        if value.is_empty() {
            continue;
        }
        if let Err(what) = set(&mut out.setup, name, value) {
            out.faults.push(format!("line {}: {what}", at + 1));
        }
    }
    out.blanked = is_blanked.then_some(kept);
    out
}

fn set(setup: &mut Setup, name: &str, value: &str) -> Result<(), String> {
    let quoted = |want: &str| format!("{name}: got {value:?}, want {want}");
    match name {
        "hostname" if is_host_name(value) => setup.hostname = Some(value.to_ascii_lowercase()),
        "hostname" => {
            return Err(quoted("1 to 63 letters, digits and inner hyphens"));
        }
        "timezone" if is_zone(value) => setup.timezone = Some(value.to_owned()),
        "timezone" => return Err(quoted("a name such as Europe/Berlin")),
        "wifi_country" if value.len() == 2 && value.bytes().all(|b| b.is_ascii_alphabetic()) => {
            setup.wifi_country = Some(value.to_ascii_uppercase());
        }
        "wifi_country" => return Err(quoted("two letters such as DE")),
        "wifi_ssid" if value.len() <= SSID_BYTES_MAX => setup.wifi_ssid = Some(value.to_owned()),
        "wifi_ssid" => return Err(quoted("1 to 32 bytes")),
        "wifi_password" if is_passphrase(value) => setup.wifi_password = Some(value.to_owned()),
        "wifi_password" => return Err("wifi_password: want 8 to 63 plain characters".into()),
        "address" => {
            setup.address = Some(network(value).ok_or_else(|| quoted("such as 192.168.1.20/24"))?);
        }
        "gateway" => setup.gateway = Some(value.parse().map_err(|_| quoted("an IPv4 address"))?),
        "name_server" => {
            setup.name_server = Some(value.parse().map_err(|_| quoted("an IP address"))?);
        }
        "ntp" => {
            let servers: Vec<String> =
                value.split([' ', ',']).filter(|s| !s.is_empty()).map(str::to_owned).collect();
            if servers.len() > NTP_MAX || !servers.iter().all(|server| is_server(server)) {
                return Err(quoted("one to four names or addresses"));
            }
            setup.ntp = servers;
        }
        "time_server" => {
            setup.time_server = match value {
                "yes" => true,
                "no" => false,
                _ => return Err(quoted("yes or no")),
            };
        }
        "password" => {
            if value.chars().count() < PASSWORD_CHARS_MIN || value.len() > PASSWORD_BYTES_MAX {
                return Err(format!(
                    "password: want at least {PASSWORD_CHARS_MIN} characters and at most {PASSWORD_BYTES_MAX} bytes"
                ));
            }
            setup.password = Some(value.to_owned());
        }
        _ => return Err(format!("got {name:?}, want one of {}", NAMES.join(", "))),
    }
    Ok(())
}

fn is_host_name(text: &str) -> bool {
    (1..=HOST_NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A name of the zone database, never a path out of it.
fn is_zone(text: &str) -> bool {
    text.len() <= 64
        && text.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-+".contains(&b))
        })
}

fn is_passphrase(text: &str) -> bool {
    (8..=63).contains(&text.len()) && text.bytes().all(|b| (32..127).contains(&b))
}

/// A name or an address, with a port where it is not the usual one.
fn is_server(text: &str) -> bool {
    let text = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => host,
        _ => text,
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(is_host_name))
}

/// `192.168.1.20/24`: an address that a device can have.
fn network(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    let is_usable = !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_broadcast();
    (is_usable && (8..=30).contains(&bits)).then_some((address, bits))
}

/// What wpa_supplicant is told; `None` where the file names no network. Without a password the network is an open one,
/// unless `known` (what was written before) has the same network with one.
pub fn wifi_config(setup: &Setup, known: Option<&str>) -> Option<String> {
    let ssid = setup.wifi_ssid.as_ref()?;
    // As hex, because a name may hold any character.
    let hex: String = ssid.bytes().map(|b| format!("{b:02x}")).collect();
    let ssid_line = format!("ssid={hex}\n");
    let country = setup.wifi_country.as_deref().unwrap_or("00");
    if setup.wifi_password.is_none()
        && let Some(known) = known
        && known.contains(&ssid_line)
    {
        let rest = known.lines().filter(|line| !line.starts_with("country="));
        return Some(format!("country={country}\n{}\n", rest.collect::<Vec<_>>().join("\n")));
    }
    let security = match &setup.wifi_password {
        // A line ends the value, and no line break is in it; quotes inside are taken literally.
        Some(password) => {
            format!("psk=\"{password}\"\nkey_mgmt=WPA-PSK SAE WPA-PSK-SHA256\nieee80211w=1\n")
        }
        None => "key_mgmt=NONE\n".to_owned(),
    };
    Some(format!(
        "country={country}\nupdate_config=0\nnetwork={{\n{ssid_line}scan_ssid=1\n{security}}}\n"
    ))
}

/// What the network script reads: shell assignments of values that hold nothing but digits, dots and colons.
pub fn network_lines(setup: &Setup) -> String {
    let Some((address, bits)) = setup.address else { return String::new() };
    let mut lines = format!("address={address}/{bits}\n");
    if let Some(gateway) = setup.gateway {
        lines.push_str(&format!("gateway={gateway}\n"));
    }
    if let Some(server) = setup.name_server {
        lines.push_str(&format!("name_server={server}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_line_is_taken_from_a_windows_editor_too() {
        let text = "\u{feff}# my recorder\r\nhostname = Garage\r\ntimezone=Europe/Berlin\r\n\r\nwifi_country=de\r\n\
             wifi_ssid = Büro 2\r\nwifi_password = p=ss \"word\"\r\naddress = 192.168.1.20/24\r\n\
             gateway = 192.168.1.1\r\nname_server = fd00::1\r\nntp = 10.0.0.1:4123, time.example\r\ntime_server = yes\r\npassword = correct horse\r\n";
        let out = read(text.as_bytes());
        assert_eq!(out.faults, Vec::<String>::new());
        let want = Setup {
            hostname: Some("garage".into()),
            timezone: Some("Europe/Berlin".into()),
            wifi_country: Some("DE".into()),
            wifi_ssid: Some("Büro 2".into()),
            wifi_password: Some("p=ss \"word\"".into()),
            address: Some(([192, 168, 1, 20].into(), 24)),
            gateway: Some([192, 168, 1, 1].into()),
            name_server: "fd00::1".parse().ok(),
            ntp: vec!["10.0.0.1:4123".into(), "time.example".into()],
            time_server: true,
            password: Some("correct horse".into()),
        };
        assert_eq!(out.setup, want);
        let blanked = out.blanked.expect("there were secrets");
        assert!(!blanked.contains("horse") && !blanked.contains("p=ss"), "{blanked}");
        assert!(
            blanked.contains("# my recorder\r\nhostname = Garage\r\n"),
            "the rest stays: {blanked}"
        );
        assert_eq!(read(blanked.as_bytes()).blanked, None, "a second time there is none");
    }

    #[test]
    fn a_wrong_line_is_named_and_the_others_count() {
        for (line, names) in [
            ("hostname = -x", "hostname"),
            ("hostname = a b", "hostname"),
            ("timezone = ../../etc/passwd", "timezone"),
            ("timezone = /etc", "timezone"),
            ("wifi_country = DEU", "wifi_country"),
            ("wifi_ssid = 123456789012345678901234567890123", "wifi_ssid"),
            ("wifi_password = short", "wifi_password"),
            ("address = 192.168.1.20", "address"),
            ("address = 127.0.0.1/8", "address"),
            ("address = 10.0.0.1/32", "address"),
            ("gateway = $(reboot)", "gateway"),
            ("name_server = ;", "name_server"),
            ("ntp = a b c d e", "ntp"),
            ("ntp = a;b", "ntp"),
            ("ntp = a:99999", "ntp"),
            ("time_server = 1", "time_server"),
            ("password = short", "password"),
            ("colour = red", "colour"),
            ("nonsense", "NAME = VALUE"),
        ] {
            let out = read(format!("{line}\nhostname = ok\n").as_bytes());
            assert_eq!(
                out.setup,
                Setup { hostname: Some("ok".into()), ..Setup::default() },
                "{line}"
            );
            assert_eq!(out.faults.len(), 1, "{line}: {:?}", out.faults);
            assert!(
                out.faults[0].starts_with("line 1: ") && out.faults[0].contains(names),
                "{:?}",
                out.faults
            );
            assert!(!out.faults[0].contains("short"), "a secret is repeated: {:?}", out.faults);
            assert!(!out.blanked.unwrap_or_default().contains("short"), "{line}");
        }
    }

    #[test]
    fn empty_values_and_comments_say_nothing() {
        let out = read(b"#password = secret secret\npassword =\n\nhostname=\n");
        assert_eq!(out, Read::default());
    }

    #[test]
    fn wifi_is_remembered_after_its_password_was_blanked() {
        let first = read(b"wifi_ssid = home\nwifi_country = DE\nwifi_password = open sesame\n");
        let config = wifi_config(&first.setup, None).expect("a network is named");
        assert!(
            config.contains("ssid=686f6d65\n") && config.contains("psk=\"open sesame\"\n"),
            "{config}"
        );
        let later = read(first.blanked.expect("blanked").as_bytes());
        let kept = wifi_config(&later.setup, Some(&config)).expect("a network is named");
        assert_eq!(kept, config);
        let other = read(b"wifi_ssid = guests\n");
        let open = wifi_config(&other.setup, Some(&config)).expect("a network is named");
        assert!(open.contains("key_mgmt=NONE") && !open.contains("sesame"), "{open}");
        assert_eq!(wifi_config(&Setup::default(), Some(&config)), None);
    }

    proptest! {
        #[test]
        fn nothing_of_the_file_reaches_the_shell_or_another_line(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let out = read(&bytes);
            prop_assert!(network_lines(&out.setup).chars().all(|c| c.is_ascii_alphanumeric() || "=./:_\n".contains(c)));
        }

        #[test]
        fn any_value_gives_one_line_of_wifi(ssid in "[^\r\n]{1,32}", password in "[ -~]{8,63}") {
            let out = read(format!("wifi_ssid = {ssid}\nwifi_password = {password}\n").as_bytes());
            if let Some(config) = wifi_config(&out.setup, None) {
                prop_assert!(config.lines().count() <= 9, "{}", config);
            }
        }
    }
}
