"""Verifies an access token with PyJWT, as a service in Python would.

verify.py BASE ISSUER AUDIENCE <TOKEN: BASE is where the issuer is reachable. Prints the claims.
"""

import json
import sys
import urllib.request

import jwt

base, issuer, audience = sys.argv[1:]
token = sys.stdin.read().strip()
with urllib.request.urlopen(base + "/.well-known/openid-configuration", timeout=10) as response:
    metadata = json.load(response)
if metadata["issuer"] != issuer:
    sys.exit("the metadata are of another issuer")
client = jwt.PyJWKClient(metadata["jwks_uri"].replace(issuer, base), timeout=10)
key = client.get_signing_key_from_jwt(token)
try:
    claims = jwt.decode(
        token,
        key,
        algorithms=["RS256"],
        audience=audience,
        issuer=issuer,
        options={"require": ["exp", "iat", "iss", "sub", "aud", "jti"]},
    )
except jwt.InvalidTokenError as error:
    sys.exit(type(error).__name__)
print(json.dumps(claims))
