package example;

import io.latchkey.client.api.ResetApi;
import io.latchkey.client.api.UsersApi;
import io.latchkey.client.model.LoginRequest;
import io.latchkey.client.model.ResetMfaRequest;
import io.latchkey.client.model.User;
import java.util.Map;
import java.util.Scanner;
import java.util.UUID;

/** Resets the MFA of one user: {@code java example.ResetMfa dev.raman@juniper.example "Lost phone"}. */
public final class ResetMfa {
  private ResetMfa() {}

  public static void main(String[] args) throws Exception {
    if (args.length == 0) {
      System.err.println("usage: ResetMfa EMAIL [REASON]");
      System.exit(2);
    }
    Map<String, String> env = System.getenv();
    LoginRequest who = new LoginRequest().organizationSlug(env.get("LATCHKEY_ORGANIZATION"))
        .email(env.get("LATCHKEY_EMAIL")).password(env.get("LATCHKEY_PASSWORD"));
    try {
      var session = Latchkey.signIn(env.get("LATCHKEY_URL"), who, ResetMfa::askForCode);
      UsersApi users = new UsersApi(session.client());
      User user = Latchkey.call(() -> users.listUsers(args[0], null, null)).stream()
          .filter(each -> each.getEmail().equals(args[0])).findFirst().orElseThrow();
      ResetMfaRequest body = new ResetMfaRequest().reason(args.length > 1 ? args[1] : null);
      // The same key for every attempt: however often it is sent, there is one reset.
      String key = UUID.randomUUID().toString();
      ResetApi reset = new ResetApi(session.client());
      var outcome = Latchkey.retrying(4, () -> reset.resetMfa(user.getId(), key, null, null, body));
      System.out.println(outcome.getMessage());
      // Shown only now: a repeat of the call does not have the code.
      if (outcome.getEnrolmentCode() != null) {
        System.out.println("Code for the user, in person or by phone: " + outcome.getEnrolmentCode());
      }
      if (outcome.getApprovalId() != null) {
        System.out.println("Another administrator must approve it: approval " + outcome.getApprovalId());
      }
    } catch (Latchkey.Refused refused) {
      System.err.printf("%s (request %s)%n", refused.getMessage(), refused.requestId().orElse("?"));
      System.exit(1);
    }
  }

  private static String askForCode() {
    System.err.print("Code of your authenticator app: ");
    return new Scanner(System.in).nextLine();
  }
}
