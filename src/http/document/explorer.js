// Signs in with the API's own calls and hands the token to Swagger UI. Tokens live in this page's memory
// alone and end with it.
'use strict';

let ui = null;

const form = document.getElementById('sign-in');
const codeField = document.getElementById('code');
const signOut = document.getElementById('sign-out');
const state = document.getElementById('state');

// The login that waits for a code, the session, and the timer of its next refresh.
let challenge = null;
let session = null;
let refreshing = null;

showOperations().catch((error) => say(`The document can't be shown: ${error.message}`, 'bad'));

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
    // The token is forgotten here whatever the server says of it.
  }
  forget();
  say('Signed out.');
});

async function showOperations() {
  const answer = await fetch('/openapi.json');
  const spec = await answer.json();
  if (!answer.ok) throw new Error(spec.message);
  // Swagger UI fills examples in: an optional filter that nobody asked for, and the same Idempotency-Key
  // for every call, which would then be done once.
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
    // A challenge bears a few wrong codes; one that is used up or dead starts over.
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
