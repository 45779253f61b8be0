// An OpenID Connect provider for tests: everything in memory, every user may log in with the password `password`.
//
// The argument is a JSON file: {port, key, certificate (PEM files), users: {login: claims}, clientId, audience, life}.
// Keys for signing are made at start, so that a restart is a rotation.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import https from 'node:https';
import Provider, { errors } from 'oidc-provider';

const settings = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const issuer = `https://127.0.0.1:${settings.port}`;
const PASSWORD = 'password';
const RESOURCE = 'urn:testbench:api';
const SCOPES = 'openid profile email offline_access';

const signingKey = (type, options, alg) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
  kid: randomUUID(),
  alg,
  use: 'sig',
});

const claimsOf = (login) => ({ sub: login, preferred_username: login, ...settings.users[login] });
const account = (login) =>
  login in settings.users ? { accountId: login, claims: async () => claimsOf(login) } : undefined;

const resource = {
  scope: SCOPES,
  audience: settings.audience,
  accessTokenFormat: 'jwt',
  accessTokenTTL: settings.life,
  jwt: { sign: { alg: settings.algorithm } },
};

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: settings.clientId,
      application_type: 'native',
      token_endpoint_auth_method: 'none',
      grant_types: [
        'authorization_code',
        'refresh_token',
        'password',
        'urn:ietf:params:oauth:grant-type:device_code',
      ],
      response_types: ['code'],
      // Of a native application any port of a loopback redirect is taken.
      redirect_uris: ['http://127.0.0.1/callback', 'http://localhost/callback'],
      id_token_signed_response_alg: 'RS256',
    },
  ],
  jwks: {
    keys: [signingKey('rsa', { modulusLength: 2048 }, 'RS256'), signingKey('ec', { namedCurve: 'P-256' }, 'ES256')],
  },
  findAccount: async (_, login) => account(login),
  claims: { openid: ['sub'], profile: ['preferred_username', 'name', 'groups'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  extraTokenClaims: async (_, token) => claimsOf(token.accountId),
  pkce: { required: () => true },
  issueRefreshToken: async () => true,
  rotateRefreshToken: true,
  ttl: { AccessToken: settings.life, IdToken: settings.life },
  cookies: { keys: [randomUUID()] },
  features: {
    deviceFlow: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: async () => RESOURCE,
      useGrantedResource: async () => true,
      getResourceServerInfo: async () => resource,
    },
  },
});

// The resource owner password grant (RFC 6749 4.3), which the library leaves to its users.
provider.registerGrantType(
  'password',
  async (context) => {
    const { username, password, scope } = context.oidc.params;
    if (password !== PASSWORD || account(username) === undefined) {
      throw new errors.InvalidGrant('wrong user name or password');
    }
    const { client } = context.oidc;
    const grant = new provider.Grant({ accountId: username, clientId: client.clientId });
    grant.addOIDCScope(SCOPES);
    grant.addResourceScope(RESOURCE, SCOPES);
    const grantId = await grant.save();
    const access = new provider.AccessToken({
      accountId: username,
      client,
      grantId,
      gty: 'password',
      scope: scope ?? SCOPES,
    });
    access.resourceServer = new provider.ResourceServer(RESOURCE, resource);
    const id = new provider.IdToken(claimsOf(username), { ctx: context });
    id.scope = scope ?? SCOPES;
    id.mask = {};
    const refresh = new provider.RefreshToken({
      accountId: username,
      client,
      grantId,
      gty: 'password',
      scope: SCOPES,
      resource: RESOURCE,
      rotations: 0,
    });
    context.body = {
      access_token: await access.save(),
      id_token: await id.issue({ use: 'idtoken' }),
      refresh_token: await refresh.save(),
      expires_in: access.expiration,
      token_type: 'Bearer',
      scope: access.scope,
    };
  },
  ['username', 'password', 'scope'],
);

provider.on('server_error', (_, error) => console.error(error));

https
  .createServer({ key: readFileSync(settings.key), cert: readFileSync(settings.certificate) }, provider.callback())
  .listen(settings.port, '127.0.0.1');
