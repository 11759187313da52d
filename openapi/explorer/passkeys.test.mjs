// Passkeys with a browser's own authenticator (CDP's WebAuthn): registered, used for login and step-up, and copied.
// There is no page for it yet: what a page would do is done in one of the server's.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const { LATCHKEY_URL, CHROMIUM } = process.env;
// Browsers have passkeys for names alone.
const URL_BY_NAME = LATCHKEY_URL.replace('127.0.0.1', 'localhost');
const AGNES = 'agnes.varga@juniper.example';
const PASSWORD = 'sample-agnes-0005';

let browser, page, cdp, authenticator;

before(async () => {
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  cdp = await page.context().newCDPSession(page);
  await cdp.send('WebAuthn.enable', { enableUI: false });
  authenticator = await newAuthenticator();
  await page.goto(`${URL_BY_NAME}/docs`);
});

after(() => browser?.close());

test('a person registers a passkey, logs in with it and steps up; a copy of it is found', async () => {
  const login = await post('/auth/login', credentials(AGNES, PASSWORD));
  assert.equal(login.body.mfaRequired, false);
  const token = login.body.accessToken;
  const registered = await register(token);
  assert.equal(registered.status, 200, JSON.stringify(registered));
  assert.equal(registered.body.recoveryCodes.length, 8);
  tell('registered with navigator.credentials.create()');

  const tokens = await logIn();
  assert.equal(tokens.status, 200, JSON.stringify(tokens.body));
  assert.deepEqual(amr(tokens.body.accessToken), ['pwd', 'pop', 'user', 'mfa']);
  tell('logged in with navigator.credentials.get()');

  const steppedUp = await stepUp(tokens.body.accessToken);
  assert.equal(steppedUp.status, 200, JSON.stringify(steppedUp.body));
  const again = await register(tokens.body.accessToken);
  assert.match(again.thrown, /InvalidStateError/, 'the browser knows the device by excludeCredentials');
  tell('stepped up; the same device is not registered twice');

  const { credentials: held } = await cdp.send('WebAuthn.getCredentials', { authenticatorId: authenticator });
  assert.equal(held.length, 1);
  assert.ok(held[0].signCount >= 2, `it counts: ${held[0].signCount}`);

  // A copy that has not counted as far: what CDP calls a credential is all there is to copy.
  await cdp.send('WebAuthn.removeCredential', { authenticatorId: authenticator, credentialId: held[0].credentialId });
  await cdp.send('WebAuthn.addCredential', { authenticatorId: authenticator, credential: { ...held[0], signCount: 0 } });
  const copied = await logIn();
  assert.deepEqual([copied.status, copied.body.message], [401, 'Invalid passkey']);
  tell('a copy with an older counter: 401');
});

test('a page on another origin gets no passkey of ours', async () => {
  const elsewhere = await browser.newPage();
  await elsewhere.goto(`${LATCHKEY_URL}/docs`);
  const thrown = await elsewhere.evaluate(() => navigator.credentials
    .get({ publicKey: { challenge: new Uint8Array(32), rpId: 'localhost' } })
    .then(() => 'nothing', (error) => error.name));
  assert.equal(thrown, 'SecurityError');
  await elsewhere.close();
  tell('by address instead of name: SecurityError, by the browser itself');
});

async function newAuthenticator() {
  const { authenticatorId } = await cdp.send('WebAuthn.addVirtualAuthenticator', {
    options: {
      protocol: 'ctap2', transport: 'internal', hasResidentKey: true, hasUserVerification: true,
      isUserVerified: true, automaticPresenceSimulation: true,
    },
  });
  return authenticatorId;
}

async function register(token) {
  const { status, body } = await post('/mfa/passkeys/options', undefined, token);
  if (status !== 200) return { status, body };
  const { made, thrown } = await page.evaluate(async (json) => {
    try {
      const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(json);
      return { made: (await navigator.credentials.create({ publicKey })).toJSON() };
    } catch (error) {
      return { thrown: String(error) };
    }
  }, body.publicKey);
  if (thrown) return { thrown };
  return post('/mfa/passkeys', { name: 'Virtual', credential: made }, token);
}

async function logIn() {
  const login = await post('/auth/login', credentials(AGNES, PASSWORD));
  const { mfaChallengeToken, mfaMethods } = login.body;
  assert.deepEqual(mfaMethods, ['passkey', 'recovery-codes']);
  const options = await post('/auth/verify-mfa/passkey/options', { mfaChallengeToken });
  return post('/auth/verify-mfa/passkey', { mfaChallengeToken, credential: await use(options.body.publicKey) });
}

async function stepUp(token) {
  const options = await post('/auth/step-up/passkey/options', undefined, token);
  return post('/auth/step-up/passkey', { credential: await use(options.body.publicKey) }, token);
}

function use(options) {
  return page.evaluate(async (json) => {
    const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(json);
    return (await navigator.credentials.get({ publicKey })).toJSON();
  }, options);
}

/** As the page would: by its own origin. */
function post(path, body, token) {
  return page.evaluate(async ([path, body, token]) => {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body) headers['Content-Type'] = 'application/json';
    const answer = await fetch(`/api/v1${path}`, { method: 'POST', headers, body: body && JSON.stringify(body) });
    return { status: answer.status, body: await answer.json() };
  }, [path, body, token]);
}

function credentials(email, password) {
  return { organizationSlug: 'juniper', email, password };
}

function amr(token) {
  return JSON.parse(Buffer.from(token.split('.')[1], 'base64url')).amr;
}

function tell(text) {
  console.log(`story: ${text}`);
}
