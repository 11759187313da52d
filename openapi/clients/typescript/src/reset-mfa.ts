// Resets the MFA of one user:  npm run reset -- dev.raman@juniper.example "Lost phone" HD-4711
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline/promises';
import { LatchkeyError, retrying, signIn, unwrap } from './client.js';

const { LATCHKEY_URL, LATCHKEY_ORGANIZATION, LATCHKEY_EMAIL, LATCHKEY_PASSWORD } = process.env;
const [email, reason, ticket] = process.argv.slice(2);
if (!LATCHKEY_URL || !LATCHKEY_ORGANIZATION || !LATCHKEY_EMAIL || !LATCHKEY_PASSWORD || !email) {
  console.error('usage: reset-mfa EMAIL [REASON [TICKET]], with LATCHKEY_URL, _ORGANIZATION, _EMAIL and _PASSWORD set');
  process.exit(2);
}

try {
  const credentials = {
    organizationSlug: LATCHKEY_ORGANIZATION, email: LATCHKEY_EMAIL, password: LATCHKEY_PASSWORD,
  };
  const { client } = await signIn(LATCHKEY_URL, credentials, askForCode);
  const users = unwrap(await client.GET('/api/v1/users', { params: { query: { query: email } } }));
  const user = users.find((each) => each.email === email);
  if (!user) throw new Error(`Nobody has the address ${email}`);
  // The same key for every attempt: however often it is sent, there is one reset.
  const header = { 'Idempotency-Key': randomUUID() };
  const outcome = await retrying(async () =>
    unwrap(await client.POST('/api/v1/users/{id}/reset-mfa', {
      params: { path: { id: user.id }, header },
      body: { ...(reason && { reason }), ...(ticket && { ticket }) },
    })));
  console.log(outcome.message);
  // Shown only now: a repeat of the call does not have the code.
  if (outcome.enrolmentCode) console.log(`Code for the user, in person or by phone: ${outcome.enrolmentCode}`);
  if (outcome.approvalId) console.log(`Another administrator must approve it: approval ${outcome.approvalId}`);
} catch (error) {
  if (!(error instanceof LatchkeyError)) throw error;
  const until = error.body.denial?.allowedFrom;
  console.error(`${error.message}${until ? ` Allowed from ${until}.` : ''} (request ${error.requestId})`);
  process.exit(1);
}

async function askForCode(): Promise<string> {
  const prompt = createInterface({ input: process.stdin, output: process.stderr });
  const code = await prompt.question('Code of your authenticator app: ');
  prompt.close();
  return code;
}
