package example;

import com.fasterxml.jackson.core.JsonProcessingException;
import io.latchkey.client.ApiClient;
import io.latchkey.client.ApiException;
import io.latchkey.client.api.AuthenticationApi;
import io.latchkey.client.model.ApiError;
import io.latchkey.client.model.LoginRequest;
import io.latchkey.client.model.LoginResponse;
import io.latchkey.client.model.VerifyMfaRequest;
import java.util.Optional;
import java.util.function.Supplier;

/** A thin layer over the generated client: sign in, typed errors, retries that are safe. */
public final class Latchkey {
  private Latchkey() {}

  /** What the API refused, with everything that it said of it. */
  public static final class Refused extends Exception {
    private final transient ApiError body;
    private final transient ApiException cause;

    private Refused(ApiError body, ApiException cause) {
      super(body.getMessage(), cause);
      this.body = body;
      this.cause = cause;
    }

    public ApiError body() {
      return body;
    }

    public int status() {
      return cause.getCode();
    }

    /** For the log line and the audit entry of this very request. */
    public Optional<String> requestId() {
      return header("X-Request-Id");
    }

    /** With 429 and 503. */
    public Optional<Long> retryAfterSeconds() {
      return header("Retry-After").map(Long::valueOf);
    }

    public Optional<String> header(String name) {
      return cause.getResponseHeaders().firstValue(name);
    }
  }

  /** A call of the generated client. */
  @FunctionalInterface
  public interface Call<T> {
    T make() throws ApiException;
  }

  /** A client that shows this token, or none. */
  public static ApiClient connect(String baseUrl, String accessToken) {
    ApiClient client = new ApiClient();
    client.updateBaseUri(baseUrl);
    if (accessToken != null) {
      client.setRequestInterceptor(request -> request.header("Authorization", "Bearer " + accessToken));
    }
    return client;
  }

  /** The call's result; where the API refused it, its own error in place of the generated exception. */
  public static <T> T call(Call<T> call) throws Refused, ApiException {
    try {
      return call.make();
    } catch (ApiException e) {
      if (e.getResponseBody() == null) throw e;
      ApiError body;
      try {
        body = ApiClient.createDefaultObjectMapper().readValue(e.getResponseBody(), ApiError.class);
      } catch (JsonProcessingException notOurs) {
        throw e;
      }
      throw new Refused(body, e);
    }
  }

  /** A session, and whether MFA has to be set up in it before anything else. */
  public record Session(ApiClient client, boolean mfaSetupRequired) {}

  /** Logs in, asking for a code where MFA is on. */
  public static Session signIn(String baseUrl, LoginRequest who, Supplier<String> code) throws Refused, ApiException {
    AuthenticationApi api = new AuthenticationApi(connect(baseUrl, null));
    LoginResponse login = call(() -> api.login(who));
    if (login.getMfaChallengeToken() != null) {
      VerifyMfaRequest shown =
          new VerifyMfaRequest().mfaChallengeToken(login.getMfaChallengeToken()).code(code.get());
      return new Session(connect(baseUrl, call(() -> api.verifyMfa(shown)).getAccessToken()), false);
    }
    if (login.getAccessToken() == null) throw new IllegalStateException("The password has expired");
    return new Session(connect(baseUrl, login.getAccessToken()), login.getMfaSetupRequired());
  }

  /** Repeats what was limited or met a busy server. Only for calls that may be made twice, or have a key. */
  public static <T> T retrying(int attempts, Call<T> call) throws Refused, ApiException, InterruptedException {
    for (int attempt = 1; ; attempt++) {
      try {
        return call(call);
      } catch (Refused refused) {
        boolean again = refused.status() == 429 || refused.status() == 503;
        if (!again || attempt == attempts) throw refused;
        Thread.sleep(1000 * refused.retryAfterSeconds().orElse(1L << attempt));
      }
    }
  }
}
