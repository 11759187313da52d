// Signs in through the API and passes the token to Swagger UI. Tokens are kept only in this page's memory and
// are lost with it.
'use strict';

let ui = null;

const form = document.getElementById('sign-in');
const codeField = document.getElementById('code');
const signOut = document.getElementById('sign-out');
const state = document.getElementById('state');

// The challenge of a login that waits for a code, the session's tokens, and the timer of the next refresh.
let challenge = null;
let session = null;
let refreshing = null;

showOperations().catch((error) => say(`Could not show the document: ${error.message}`, 'bad'));

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    await (challenge ? showCode() : logIn());
  } catch (error) {
    say(error.message, 'bad');
  }
});

signOut.addEventListener('click', async () => {
  try {
    await call('/api/v1/auth/logout', undefined, session.accessToken);
  } catch {
    // The token is discarded here even if the server refuses it.
  }
  forget();
  say('Signed out.');
});

async function showOperations() {
  const answer = await fetch('/openapi.json');
  const spec = await answer.json();
  if (!answer.ok) throw new Error(spec.message);
  // Swagger UI would pre-fill the examples: optional filters that nobody wants, and the same Idempotency-Key
  // for every call, so that only the first would be carried out.
  for (const operation of Object.values(spec.paths).flatMap(Object.values)) {
    for (const parameter of operation.parameters ?? []) {
      if (!parameter.required) delete parameter.example;
    }
  }
  ui = SwaggerUIBundle({
    dom_id: '#operations',
    spec,
    validatorUrl: null,
    deepLinking: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
    tryItOutEnabled: true,
  });
}

async function logIn() {
  const { organizationSlug, email, password } = Object.fromEntries(new FormData(form));
  const answer = await call('/api/v1/auth/login', { organizationSlug, email, password });
  if (answer.mfaRequired) {
    challenge = answer.mfaChallengeToken;
    codeField.hidden = false;
    codeField.querySelector('input').focus();
    say('Enter the code of your authenticator app, or a recovery code.');
  } else if (answer.passwordExpired) {
    say('The password has expired: change it with POST /auth/change-expired-password, passwordChangeToken '
      + answer.passwordChangeToken, 'bad');
  } else {
    use(answer, answer.mfaSetupRequired
      ? 'Signed in, but only to set MFA up: POST /mfa/setup, then POST /mfa/setup/confirm.'
      : `Signed in as ${answer.user.email}.`);
  }
}

async function showCode() {
  const mfaChallengeToken = challenge;
  try {
    const answer = await call('/api/v1/auth/verify-mfa', { mfaChallengeToken, code: form.elements.code.value });
    use(answer, `Signed in as ${form.elements.email.value}.`);
  } catch (error) {
    if (error.message.startsWith('The password has expired')) {
      forget();
      throw new Error(`${error.message}: POST /auth/change-expired-password, passwordChangeToken ${mfaChallengeToken}`);
    }
    // A challenge allows a few wrong codes; once it is used up or expired, start the login again.
    if (error.message.includes('challenge')) forget();
    throw error;
  }
}

function use(tokens, text) {
  session = tokens;
  ui?.preauthorizeApiKey('bearerAuth', tokens.accessToken);
  challenge = null;
  codeField.hidden = true;
  form.elements.code.value = '';
  form.elements.password.value = '';
  signOut.hidden = false;
  clearTimeout(refreshing);
  refreshing = setTimeout(refresh, tokens.expiresIn * 800);
  if (text) say(text, 'good');
}

async function refresh() {
  try {
    use(await call('/api/v1/auth/refresh', { refreshToken: session.refreshToken }));
  } catch (error) {
    forget();
    say(`Signed out: ${error.message}`, 'bad');
  }
}

function forget() {
  clearTimeout(refreshing);
  challenge = null;
  session = null;
  codeField.hidden = true;
  signOut.hidden = true;
  ui?.authActions.logout(['bearerAuth']);
}

async function call(path, body, token) {
  const headers = {};
  if (body) headers['Content-Type'] = 'application/json';
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method: 'POST', headers, body: body && JSON.stringify(body) });
  const value = await answer.json();
  if (!answer.ok) {
    throw new Error([value.message, ...Object.values(value.validationErrors ?? {})].join(': '));
  }
  return value;
}

function say(text, kind = '') {
  state.textContent = text;
  state.className = kind;
}
