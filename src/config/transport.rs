//! How a camera's packets travel.

/// `transport` of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// In the RTSP connection; over UDP where the camera refuses that (461).
    #[default]
    Auto,
    /// In the RTSP connection.
    Tcp,
    /// Over UDP, unicast.
    Udp,
}

impl Transport {
    /// All, in the order of their numbers in the store.
    const ALL: [Self; 3] = [Self::Auto, Self::Tcp, Self::Udp];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The one with this name in the API.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.name() == name)
    }

    /// The number in the store.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The one with this number in the store; a later version's is `Auto`.
    pub fn of_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for transport in Transport::ALL {
            assert_eq!(Transport::named(transport.name()), Some(transport));
            assert_eq!(Transport::of_number(transport.number()), transport);
        }
        assert_eq!((Transport::named("UDP"), Transport::of_number(9)), (None, Transport::Auto));
    }
}
