// The explorer page as a person uses it: sign in with a second factor, try a reset, sign out. run.sh
// starts the server and this in a network of their own, without a way out.
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const { LATCHKEY_URL, CHROMIUM, SCREENSHOTS } = process.env;
const SECRET = 'NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS';
const DEV = '770e8400-e29b-41d4-a716-446655440004';

let browser, page;
const requested = [];
const complaints = [];

before(async () => {
  // No sandbox: it wants a user other than root, and the only page it opens is ours.
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  page = await browser.newPage({ viewport: { width: 1200, height: 1400 } });
  page.setDefaultTimeout(20_000);
  page.on('request', (request) => requested.push(request.url()));
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on('console', (message) => {
    // A refusal is an answer like any other; the browser calls it an error.
    if (message.type() === 'error' && !message.text().includes('the server responded with a status of')) {
      complaints.push(message.text());
    }
  });
});

after(async () => {
  await shoot('end');
  await browser?.close();
});

test('a person signs in, tries a reset and signs out', async () => {
  await page.goto(`${LATCHKEY_URL}/docs`);
  await signIn('wrong');
  await says('Invalid credentials');
  await signIn('sample-amara-0003');
  await says('Enter the code of your authenticator app, or a recovery code.');
  await page.fill('[name=code]', '000000');
  await page.click('#sign-in button:not([type])');
  await says('Invalid MFA code');
  await page.fill('[name=code]', code(SECRET));
  await page.click('#sign-in button:not([type])');
  await says('Signed in as amara.okafor@juniper.example.');
  assert.equal(await page.inputValue('[name=password]'), '', 'the password does not stay in the page');
  tell('signed in, after a wrong password and a wrong code');

  const operation = page.locator('#operations-Reset-resetMfa');
  await operation.locator('.opblock-summary-control').click();
  await operation.locator('tr[data-param-name=id] input').fill(DEV);
  assert.equal(await operation.locator('tr[data-param-name=Idempotency-Key] input').inputValue(), '');
  assert.deepEqual(await execute(operation), ['200', 'MFA reset successfully']);
  await shoot('reset');
  assert.deepEqual(await execute(operation), ['400', 'MFA is not enabled for this user']);
  tell('tried the reset: 200, and 400 the second time');

  await page.click('#sign-out');
  await says('Signed out.');
  assert.equal((await execute(operation))[0], '401');
  tell('signed out: 401');
});

test('nothing is asked of anybody else, and nothing is kept', async () => {
  const elsewhere = requested.filter((url) => !url.startsWith(`${LATCHKEY_URL}/`) && !url.startsWith('data:'));
  assert.deepEqual(elsewhere, []);
  assert.deepEqual(complaints, []);
  const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]);
  assert.deepEqual(kept, [0, 0, '']);
  tell(`${requested.length} requests, all to the appliance; no error in the console; no storage, no cookie`);
});

async function signIn(password) {
  await page.fill('[name=organizationSlug]', 'juniper');
  await page.fill('[name=email]', 'amara.okafor@juniper.example');
  await page.fill('[name=password]', password);
  await page.click('#sign-in button:not([type])');
}

async function says(text) {
  await page.locator('#state', { hasText: text }).waitFor();
}

/** Status and message of the answer that the page shows. */
async function execute(operation) {
  const answered = page.waitForResponse((response) => new URL(response.url()).pathname.endsWith('/reset-mfa'));
  await operation.locator('button.execute').click();
  const status = String((await answered).status());
  const shown = operation.locator('.live-responses-table');
  await shown.locator('td.response-col_status', { hasText: status }).waitFor();
  const body = await shown.locator('.response-col_description .highlight-code').first().innerText();
  return [status, JSON.parse(body.replace(/^[^{]*/, '').replace(/[^}]*$/, '')).message];
}

async function shoot(name) {
  await page.screenshot({ path: `${SCREENSHOTS}/${name}.png` });
}

/** RFC 6238, as the authenticator app does it. */
function code(secret) {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  const bits = [...secret].map((c) => alphabet.indexOf(c).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000)));
  const mac = createHmac('sha1', key).update(step).digest();
  const offset = mac[19] & 15;
  return String((mac.readUInt32BE(offset) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

function tell(text) {
  console.log(`story: ${text}`);
}
