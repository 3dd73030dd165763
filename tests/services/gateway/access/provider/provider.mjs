// An OIDC provider on loopback: node provider.mjs PORT KEYS.json
// Its client "team-a" gets access tokens (JWT) of tenant team-a for the audience live-avatar; a token lives 60 s.
import { readFileSync } from "node:fs";
import Provider from "oidc-provider";

const [port, keysFile] = process.argv.slice(2);
const keys = JSON.parse(readFileSync(keysFile, "utf8"));
const resource = "urn:live-avatar";

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: keys,
  clients: [
    {
      client_id: "team-a",
      client_secret: "of-the-test",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
      scope: "live-avatar:sessions live-avatar:usage",
      id_token_signed_response_alg: keys.keys[0].alg,
    },
  ],
  scopes: ["live-avatar:sessions", "live-avatar:usage"],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({
        scope: "live-avatar:sessions live-avatar:usage",
        audience: "live-avatar",
        accessTokenFormat: "jwt",
        accessTokenTTL: 60,
        jwt: { sign: { alg: keys.keys[0].alg } },
      }),
    },
  },
  extraTokenClaims: (ctx, token) => ({ org: { tenant: token.clientId } }),
});

provider.on("server_error", (ctx, error) => console.error(error));
provider.listen(Number(port), "127.0.0.1", () => console.log(`listening ${resource}`));
