package example;

import io.latchkey.client.ApiClient;
import io.latchkey.client.api.MfaApi;
import io.latchkey.client.api.ResetApi;
import io.latchkey.client.api.SessionsApi;
import io.latchkey.client.api.UsersApi;
import io.latchkey.client.model.LoginRequest;
import io.latchkey.client.model.MfaCodeRequest;
import io.latchkey.client.model.MfaConfirmRequest;
import io.latchkey.client.model.ResetMfaRequest;
import io.latchkey.client.model.ResetMfaResponse;
import io.latchkey.client.model.Session;
import io.latchkey.client.model.User;
import java.time.OffsetDateTime;
import java.util.UUID;

/** The story of a lost device, from the first login to the new one, with typed results and typed errors. */
public final class Story {
  private static final String URL = System.getenv("LATCHKEY_URL");
  private static final UUID NOBODY = UUID.fromString("770e8400-e29b-41d4-a716-44665544ffff");

  private static final String KEY = "the-key-of-this-story";

  private Story() {}

  public static void main(String[] args) throws Exception {
    LoginRequest admin = login("amara.okafor@juniper.example", "sample-amara-0003");
    LoginRequest developer = login("dev.raman@juniper.example", "sample-dev-0004");
    ApiClient client = Latchkey.signIn(URL, admin, () -> code("NFDMQGXONIZD2IJW5VSTRRX4HSDMXTNS", 0)).client();
    tell("the admin logged in with TOTP");

    var listed = new UsersApi(client).listUsersWithHttpInfo("raman", 0L, 10L);
    User user = listed.getData().get(0);
    equal("1", listed.getHeaders().get("x-total-count").get(0));
    equal(true, user.getMfaEnabled());

    for (int i = 0; i < 2; i++) {
      equal("MFA reset successfully", reset(client, user.getId(), KEY).getMessage());
    }
    tell("the reset was done once, however often it was sent with its key");

    var limited = Latchkey.signIn(URL, developer, () -> { throw new AssertionError("no second factor is left"); });
    equal(true, limited.mfaSetupRequired());
    equal(403, refused(() -> new SessionsApi(limited.client()).listSessions()).status());
    MfaApi mfa = new MfaApi(limited.client());
    String secret = mfa.setUpMfa().getSecret();
    var codes = mfa.confirmMfa(new MfaConfirmRequest().secret(secret).code(code(secret, 0)));
    equal(8, codes.getRecoveryCodes().size());
    // The code that confirmed is used up; the next one is taken half a minute early.
    var again = Latchkey.signIn(URL, developer, () -> code(secret, 30));
    equal(true, new SessionsApi(again.client()).listSessions().stream().anyMatch(Session::getCurrent));
    tell("the developer logged in with the password alone, set MFA up and logged in with the new code");

    Latchkey.Refused denied = refused(() -> resetRaw(client, user.getId(), null));
    equal(403, denied.status());
    equal("reset-budget", denied.body().getDenial().getPlugin());
    equal("user-reset-budget", denied.body().getDenial().getCode());
    equal(true, denied.body().getDenial().getAllowedFrom().isAfter(OffsetDateTime.now()));
    tell("a policy denied the next: " + denied.getMessage());

    Latchkey.Refused unknown = refused(() -> resetRaw(client, NOBODY, null));
    equal(404, unknown.status());
    equal("User not found with id: " + NOBODY, unknown.getMessage());
    UUID.fromString(unknown.requestId().orElseThrow());
    tell("404 came as a typed error");

    Latchkey.Refused last = unknown;
    for (int i = 0; i < 10 && last.status() != 429; i++) {
      last = refused(() -> resetRaw(client, NOBODY, null));
    }
    equal(429, last.status());
    equal(true, last.retryAfterSeconds().orElseThrow() > 0);
    tell("429 came with Retry-After: " + last.retryAfterSeconds().orElseThrow());

    // What was done is answered with its key again, once the limit lets it: in one try more, so at the time that was told.
    useUp(client, user.getId());
    long began = System.nanoTime();
    var done = Latchkey.retrying(2, () -> resetRaw(client, user.getId(), KEY));
    equal("MFA reset successfully", done.getMessage());
    double seconds = (System.nanoTime() - began) / 1e9;
    equal(true, seconds > 2 && seconds < 10);
    tell("the client waited for " + Math.round(seconds) + " s, as it was told, and succeeded");

    // 204 and 200, both without a body: what was done is no error.
    SessionsApi sessions = new SessionsApi(again.client());
    var before = sessions.listSessions().stream().map(Session::getId).toList();
    var other = Latchkey.signIn(URL, developer, () -> codes.getRecoveryCodes().get(0));
    UUID there = sessions.listSessions().stream().map(Session::getId)
        .filter(id -> !before.contains(id)).findFirst().orElseThrow();
    sessions.endSession(there);
    equal(401, refused(() -> new SessionsApi(other.client()).listSessions()).status());
    new MfaApi(again.client()).disableMfa(new MfaCodeRequest().code(codes.getRecoveryCodes().get(1)));
    Latchkey.signIn(URL, developer, () -> { throw new AssertionError("no second factor is left"); });
    tell("the developer ended the other session and switched MFA off");
  }

  private static ResetMfaResponse reset(ApiClient client, UUID user, String key) throws Exception {
    return Latchkey.call(() -> resetRaw(client, user, key));
  }

  private static ResetMfaResponse resetRaw(ApiClient client, UUID user, String key)
      throws io.latchkey.client.ApiException {
    ResetMfaRequest body = new ResetMfaRequest().reason("Lost phone").ticket("HD-4711");
    return new ResetApi(client).resetMfa(user, key, null, null, body);
  }

  private static void useUp(ApiClient client, UUID user) throws Exception {
    try {
      while (true) reset(client, user, KEY);
    } catch (Latchkey.Refused limited) {
      equal(429, limited.status());
    }
  }

  private static Latchkey.Refused refused(Latchkey.Call<?> call) throws Exception {
    try {
      Latchkey.call(call);
    } catch (Latchkey.Refused refused) {
      return refused;
    }
    throw new AssertionError("it was not refused");
  }

  private static LoginRequest login(String email, String password) {
    return new LoginRequest().organizationSlug("juniper").email(email).password(password);
  }

  /** The code that oathtool shows so many seconds from now. */
  private static String code(String secret, int secondsAhead) {
    try {
      String at = "@" + (System.currentTimeMillis() / 1000 + secondsAhead);
      Process oathtool = new ProcessBuilder("oathtool", "--totp", "-b", "-N", at, secret).start();
      return new String(oathtool.getInputStream().readAllBytes()).trim();
    } catch (java.io.IOException e) {
      throw new AssertionError(e);
    }
  }

  private static void equal(Object expected, Object actual) {
    if (!expected.equals(actual)) throw new AssertionError("expected " + expected + ", got " + actual);
  }

  private static void tell(String text) {
    System.out.println("story: " + text);
  }
}
