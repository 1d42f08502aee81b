//! The device's name on the LAN: `lightnvr.local` and a web service (RFC 6762, RFC 6763).
//!
//! In here: the outside crate that answers, which probes for conflicts and follows the interfaces' addresses.

use mdns_sd::{ServiceDaemon, ServiceInfo};

const SERVICE: &str = "_http._tcp.local.";

/// The running responder; it ends with the process.
#[derive(Default)]
pub struct Responder {
    daemon: Option<ServiceDaemon>,
    announced: Option<(String, u16)>,
}

impl Responder {
    /// Announces `http://<host>.local:<port>/`, when that is not what is announced already.
    pub fn announce(&mut self, host: &str, port: u16) -> Result<(), String> {
        let wanted = (host.to_owned(), port);
        if self.announced.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if self.daemon.is_none() {
            self.daemon = Some(ServiceDaemon::new().map_err(|error| error.to_string())?);
        }
        let properties = [("path", "/"), ("version", crate::VERSION)];
        let name = format!("LightNVR on {host}");
        let info =
            ServiceInfo::new(SERVICE, &name, &format!("{host}.local."), "", port, &properties[..])
                .map_err(|error| error.to_string())?
                .enable_addr_auto();
        if let Some(daemon) = &self.daemon {
            daemon.register(info).map_err(|error| error.to_string())?;
        }
        self.announced = Some(wanted);
        Ok(())
    }
}
