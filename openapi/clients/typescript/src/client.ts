// A thin layer over the generated types: sign in, typed errors, and retries that are safe.
import createClient, { type Client } from 'openapi-fetch';
import type { components, paths } from './latchkey.js';

export type ApiError = components['schemas']['ApiError'];
export type Latchkey = Client<paths>;

/** What the API refused, with everything that it said of it. */
export class LatchkeyError extends Error {
  constructor(readonly body: ApiError, readonly response: Response) {
    super(body.message);
  }

  get status(): number {
    return this.body.status;
  }

  /** For the log line and the audit entry of this very request. */
  get requestId(): string | null {
    return this.response.headers.get('X-Request-Id');
  }

  /** With 429 and 503. */
  get retryAfterSeconds(): number | undefined {
    const seconds = this.response.headers.get('Retry-After');
    return seconds === null ? undefined : Number(seconds);
  }
}

export function connect(baseUrl: string, accessToken?: string): Latchkey {
  const headers = accessToken === undefined ? {} : { Authorization: `Bearer ${accessToken}` };
  return createClient<paths>({ baseUrl, headers });
}

/** The answer's data, or its error as an exception. The data of a success without a body is undefined. */
export function unwrap<T>(answer: { data?: T; error?: ApiError; response: Response }): T {
  const { data, error, response } = answer;
  if (response.ok) return data as T;
  // A proxy may answer with no body, or with one of its own.
  if (!error?.message) throw new Error(`${response.status} is not in the document`);
  throw new LatchkeyError(error, response);
}

export interface Credentials {
  organizationSlug: string;
  email: string;
  password: string;
}

/** Logs in; `code` is asked for where MFA is on. */
export async function signIn(
  baseUrl: string,
  credentials: Credentials,
  code: () => string | Promise<string>,
): Promise<{ client: Latchkey; mfaSetupRequired: boolean }> {
  const open = connect(baseUrl);
  const login = unwrap(await open.POST('/api/v1/auth/login', { body: credentials }));
  if (login.mfaChallengeToken !== null) {
    const body = { mfaChallengeToken: login.mfaChallengeToken, code: await code() };
    const tokens = unwrap(await open.POST('/api/v1/auth/verify-mfa', { body }));
    return { client: connect(baseUrl, tokens.accessToken), mfaSetupRequired: false };
  }
  if (login.accessToken === null) throw new Error('The password has expired');
  return { client: connect(baseUrl, login.accessToken), mfaSetupRequired: login.mfaSetupRequired };
}

/** Repeats what was limited or met a busy server. Only for calls that may be made twice, or have a key. */
export async function retrying<T>(call: () => Promise<T>, attempts = 4): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      const again = error instanceof LatchkeyError && (error.status === 429 || error.status === 503);
      if (!again || attempt === attempts) throw error;
      await new Promise((wake) => setTimeout(wake, 1000 * (error.retryAfterSeconds ?? 2 ** attempt)));
    }
  }
}
