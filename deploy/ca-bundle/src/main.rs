//! Prints the root certificates that Mozilla trusts, as PEM. In the images they are
//! `/etc/ssl/certs/ca-certificates.crt`.

use pem::{EncodeConfig, LineEnding, Pem, encode_many_config};

fn main() {
    let certificates: Vec<_> =
        webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| Pem::new("CERTIFICATE", der.as_ref())).collect();
    print!("{}", encode_many_config(&certificates, EncodeConfig::new().set_line_ending(LineEnding::LF)));
}
