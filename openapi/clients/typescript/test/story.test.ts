// The story of a lost device, from the first login to the new one, with typed results and typed errors.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { generateSync } from 'otplib';
import { LatchkeyError, retrying, signIn, unwrap, type Latchkey } from '../src/client.js';

const url = process.env.LATCHKEY_URL ?? '';
const admin = { organizationSlug: 'juniper', email: 'amara.okafor@juniper.example', password: 'sample-amara-0003' };
const dev = { organizationSlug: 'juniper', email: 'dev.raman@juniper.example', password: 'sample-dev-0004' };
const adminSecret = 'NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS';
const nobody = '770e8400-e29b-41d4-a716-44665544ffff';

const code = (secret: string, secondsAhead = 0) =>
  generateSync({ secret, epoch: Math.floor(Date.now() / 1000) + secondsAhead });

const reset = (client: Latchkey, id: string, key?: string) =>
  client.POST('/api/v1/users/{id}/reset-mfa', {
    params: { path: { id }, header: key === undefined ? {} : { 'Idempotency-Key': key } },
    body: { reason: 'Lost phone', ticket: 'HD-4711' },
  });

function tell(text: string): void {
  console.log(`story: ${text}`);
}

test('a device is lost, reset and replaced', async () => {
  const { client } = await signIn(url, admin, () => code(adminSecret));
  tell('the admin logged in with TOTP');

  const listed = await client.GET('/api/v1/users', { params: { query: { query: 'raman', page: 0, size: 10 } } });
  const [user] = unwrap(listed);
  assert.equal(listed.response.headers.get('X-Total-Count'), '1');
  assert.ok(user?.mfaEnabled);

  const key = randomUUID();
  assert.equal(unwrap(await reset(client, user.id, key)).message, 'MFA reset successfully');
  assert.equal(unwrap(await reset(client, user.id, key)).message, 'MFA reset successfully');
  tell('the reset was done once, however often it was sent with its key');

  const login = await signIn(url, dev, () => assert.fail('no second factor is left'));
  assert.equal(login.mfaSetupRequired, true);
  const early = await login.client.GET('/api/v1/account/sessions');
  assert.equal(early.error?.status, 403);
  const { secret } = unwrap(await login.client.POST('/api/v1/mfa/setup'));
  const body = { secret, code: code(secret) };
  const { recoveryCodes } = unwrap(await login.client.POST('/api/v1/mfa/setup/confirm', { body }));
  assert.equal(recoveryCodes.length, 8);
  // The code that confirmed is used up; the next one is taken half a minute early.
  const again = await signIn(url, dev, () => code(secret, 30));
  assert.ok(unwrap(await again.client.GET('/api/v1/account/sessions')).some((session) => session.current));
  tell('the developer logged in with the password alone, set MFA up and logged in with the new code');

  const denied = await reset(client, user.id);
  assert.equal(denied.response.status, 403);
  assert.equal(denied.error?.denial?.plugin, 'reset-budget');
  assert.equal(denied.error?.denial?.code, 'user-reset-budget');
  assert.ok(Date.parse(denied.error?.denial?.allowedFrom ?? '') > Date.now());
  tell(`a policy denied the next: ${denied.error?.message}`);

  const long = await client.POST('/api/v1/users/{id}/reset-mfa', {
    params: { path: { id: user.id } },
    body: { reason: 'x'.repeat(501) },
  });
  assert.equal(long.error?.status, 400);
  assert.ok(long.error?.validationErrors?.reason);

  await assert.rejects(async () => unwrap(await reset(client, nobody)), (error) => {
    assert.ok(error instanceof LatchkeyError);
    assert.equal(error.status, 404);
    assert.equal(error.message, `User not found with id: ${nobody}`);
    assert.match(error.requestId ?? '', /^[0-9a-f-]{36}$/);
    return true;
  });
  tell('404 came as a typed error');

  let limited: LatchkeyError | undefined;
  for (let call = 0; call < 10 && !limited; call++) {
    await retrying(async () => unwrap(await reset(client, nobody)), 1).catch((error: LatchkeyError) => {
      if (error.status === 429) limited = error;
    });
  }
  assert.ok((limited?.retryAfterSeconds ?? 0) > 0);
  assert.match(limited?.response.headers.get('RateLimit-Policy') ?? '', /^"reset-by-target";q=5;/);
  tell(`429 came with Retry-After: ${limited?.retryAfterSeconds}`);

  // What was done is answered with its key again, once the limit lets it: in one try more, so at the time that was told.
  while ((await reset(client, user.id, key)).response.ok);
  const began = Date.now();
  const done = await retrying(async () => unwrap(await reset(client, user.id, key)), 2);
  assert.equal(done.message, 'MFA reset successfully');
  const seconds = (Date.now() - began) / 1000;
  assert.ok(seconds > 2 && seconds < 10, `${seconds} s`);
  tell(`the client waited for ${Math.round(seconds)} s, as it was told, and succeeded`);

  // 204 and 200, both without a body: what was done is no error.
  const ids = async () =>
    unwrap(await again.client.GET('/api/v1/account/sessions')).map((session) => session.id);
  const before = await ids();
  const other = await signIn(url, dev, () => recoveryCodes[0] ?? '');
  const id = (await ids()).find((each) => !before.includes(each)) ?? '';
  unwrap(await again.client.DELETE('/api/v1/account/sessions/{id}', { params: { path: { id } } }));
  assert.equal((await other.client.GET('/api/v1/account/sessions')).error?.status, 401);
  unwrap(await again.client.POST('/api/v1/mfa/disable', { body: { code: recoveryCodes[1] ?? '' } }));
  await signIn(url, dev, () => assert.fail('no second factor is left'));
  tell('the developer ended the other session and switched MFA off');
});

test('an answer of something in between is an error', () => {
  const response = new Response(null, { status: 502 });
  for (const answer of [{ response }, { error: '<h1>Bad Gateway</h1>' as never, response }]) {
    assert.throws(() => unwrap(answer), /^Error: 502 is not in the document$/);
  }
});

test('the example program says what the API said', () => {
  const env = {
    ...process.env, LATCHKEY_ORGANIZATION: 'juniper', LATCHKEY_EMAIL: admin.email, LATCHKEY_PASSWORD: 'wrong',
  };
  const run = spawnSync(process.execPath, ['dist/src/reset-mfa.js', dev.email], { env, encoding: 'utf8' });
  assert.equal(run.status, 1, run.stderr);
  assert.match(run.stderr, /^Invalid credentials \(request [0-9a-f-]{36}\)\n$/);
});
