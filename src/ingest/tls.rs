//! RTSPS: TLS around the bytes of an RTSP connection. The one place that knows rustls.
//!
//! A camera's certificate is nearly always its own, so a stream can name its SHA-256 (`tls_fingerprint`); without
//! it the certificate must be one that the system's authorities vouch for. Nothing is loaded, and nothing kept,
//! before the first `rtsps://`.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};

use super::IngestError;
use crate::config::fingerprint::Fingerprint;

/// Where Debian, and Raspberry Pi OS, keep the authorities.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Authorities that are parsed between two awaits: some 2 ms on a small board.
const AT_ONCE: usize = 16;
/// Room that a read leaves for what one turn of the record layer may give.
const TURN_BYTES_MAX: usize = 64 << 10;

thread_local! {
    /// Loaded once, for some 100 KiB.
    static ROOTS: RefCell<Option<Arc<RootCertStore>>> = const { RefCell::new(None) };
}

/// One connection's TLS.
pub struct Tls(ClientConnection);

impl Tls {
    /// `host`: name or address as in the URL.
    pub async fn new(host: &str, pin: Option<Fingerprint>) -> Result<Self, IngestError> {
        let refused = |what: &str| IngestError::Refused { what: what.to_owned() };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refused("the URL's host is no name that a certificate can have"))?;
        let provider = Arc::new(ring::default_provider());
        let authorities = match pin {
            Some(_) => None,
            None => {
                let roots = roots().await.map_err(|error| IngestError::Refused {
                    what: format!("no authorities for TLS in {AUTHORITIES}: {error}"),
                })?;
                let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
                Some(builder.build().map_err(|_| refused("no authorities for TLS"))?)
            }
        };
        let verifier = Arc::new(Verifier { pin, authorities, provider: provider.clone() });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| refused("TLS cannot be set up"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), name)
            .map_err(|_| refused("TLS cannot be set up"))?;
        Ok(Self(connection))
    }

    /// Whether there is something to be sent, of the handshake's own perhaps.
    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Takes from the front of `output` what fits, and sends what the socket takes.
    pub fn write(&mut self, mut socket: &TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
        if !output.is_empty() {
            let taken = self.0.writer().write(output)?;
            output.drain(..taken);
        }
        while self.0.wants_write() {
            self.0.write_tls(&mut socket)?;
        }
        Ok(())
    }

    /// Reads what there is, as `Read::read` of a socket that does not block. `InvalidData`: the camera's
    /// certificate or its TLS cannot be accepted.
    pub fn read(&mut self, mut socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            match self.0.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(read) => {
                    filled += read;
                    if buffer.len() - filled < TURN_BYTES_MAX {
                        return Ok(filled);
                    }
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The end without a farewell: cameras have none.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(filled),
                Err(error) => return Err(error),
            }
            match self.0.read_tls(&mut socket) {
                Ok(0) => return Ok(filled),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => {
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
            if let Err(error) = self.0.process_new_packets() {
                // The camera is told why.
                let _ = self.0.write_tls(&mut socket);
                return Err(io::Error::new(ErrorKind::InvalidData, words(&error)));
            }
        }
    }
}

/// The system's authorities.
async fn roots() -> io::Result<Arc<RootCertStore>> {
    if let Some(roots) = ROOTS.with_borrow(Clone::clone) {
        return Ok(roots);
    }
    let pem = smol::fs::read(AUTHORITIES).await?;
    let mut roots = RootCertStore::empty();
    for (n, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        // One that cannot be read vouches for nobody.
        let _ = certificate.map(|certificate| roots.add(certificate));
        if n % AT_ONCE == AT_ONCE - 1 {
            smol::future::yield_now().await;
        }
    }
    let roots = Arc::new(roots);
    ROOTS.set(Some(Arc::clone(&roots)));
    Ok(roots)
}

fn words(error: &Error) -> String {
    match error {
        // Our own words, see `Verifier`.
        Error::General(what) => what.clone(),
        error => format!("TLS with the camera fails: {error}"),
    }
}

/// The certificate that is named, or one that an authority vouches for.
#[derive(Debug)]
struct Verifier {
    pin: Option<Fingerprint>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Fingerprint(Sha256::digest(end_entity.as_ref()).into());
        if let Some(pin) = self.pin {
            if pin == seen {
                return Ok(ServerCertVerified::assertion());
            }
            return Err(Error::General(format!(
                "camera shows another certificate than tls_fingerprint says: its SHA-256 is {seen}"
            )));
        }
        let authorities = self.authorities.as_ref();
        let authorities = authorities.ok_or(CertificateError::UnknownIssuer)?;
        authorities
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| {
                let why = match error {
                    Error::InvalidCertificate(
                        CertificateError::Expired | CertificateError::ExpiredContext { .. },
                    ) => " (it has expired)",
                    Error::InvalidCertificate(
                        CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. },
                    ) => " (it is for another name)",
                    _ => "",
                };
                Error::General(format!(
                    "nobody vouches for the certificate of the camera{why}; if this is your camera, set \
                     tls_fingerprint to {seen}"
                ))
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
