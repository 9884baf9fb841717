// own main: it is started again as the program under test.
//
// A supervised program as its supervisor sees it: signals in, an exit status out.
#include "sluice/api/supervise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "sluice/runtime/process.h"
#include "sluice/sluice.h"

namespace sluice {
namespace {

using namespace std::chrono_literals;

const Time never = Time::max();
constexpr const char* child_marker = "--sluice-supervise-test-child";

Connection& parent() {
  static Connection& connection = *connection_to_parent().release();
  return connection;
}
void tell(const std::string& text) { parent().write(text + "\n", never); }

class OneRecord : public Receiver<int> {
 public:
  void run(ReceiverContext<int>& context) override {
    context.store(1);
    tell("stored");
    while (context.wait_for(1h)) {
    }
  }
};

StreamingContext stream(std::string_view role) {
  if (role == "bad-setting") throw Error(Code::bad_setting, {.why = "for a test"});
  if (role == "no-error-of-sluice") throw std::runtime_error("for a test");
  const Context ctx({.app = "supervised", .master = "local[2]"});
  // Only a graceful stop processes what is stored before the hour is over.
  const StreamingContext ssc(ctx, {.batch = role == "failing-output" ? Duration(1ms) : 1h, .output_tries = 1});
  if (role == "no-output") return ssc;
  ssc.receiver_stream<int>([] { return std::make_unique<OneRecord>(); })
      .foreach_rdd([role = std::string(role)](const Rdd<int>& rdd) {
        if (role == "failing-output") throw std::runtime_error("for a test");
        const std::uint64_t count = rdd.count();
        if (count > 0) tell("processed " + std::to_string(count));
        // What it waits for never comes.
        if (role == "stuck" && count > 0) parent().read(*std::make_unique<std::string>(1, '\0'), never);
      });
  if (role == "signalled-while-made") {
    tell("making");
    std::string go(1, '\0');
    parent().read(go, never);
  }
  return ssc;
}

// Before main, because GoogleTest has it. glibc hands the arguments to constructors.
__attribute__((constructor(65535))) void become_child(int argc, char** argv) {
  if (argc != 3 || std::strcmp(argv[1], child_marker) != 0) return;
  std::_Exit(supervise([&] { return stream(argv[2]); }));
}

/// The program under test, in some role.
class Program {
 public:
  explicit Program(const char* role) : child_(spawn_self({child_marker, role})) {}
  /// The next line that it tells; empty at its end.
  std::string line() {
    std::size_t end = 0;
    while ((end = told_.find('\n')) == std::string::npos) {
      std::string some(100, '\0');
      const std::size_t count = child_->connection().read(some, never).value();
      if (count == 0) return {};
      told_ += some.substr(0, count);
    }
    const std::string first = told_.substr(0, end);
    told_.erase(0, end + 1);
    return first;
  }
  void go() { child_->connection().write(std::string(1, '\n'), never); }
  void signal(int number) { child_->kill(number); }
  int wait() { return child_->wait(); }

 private:
  std::unique_ptr<ChildProcess> child_;
  std::string told_;
};

TEST(Supervise, ASignalStopsItGracefully) {
  for (const int number : {SIGTERM, SIGINT}) {
    Program program("plain");
    ASSERT_EQ(program.line(), "stored");
    program.signal(number);
    EXPECT_EQ(program.line(), "processed 1");
    EXPECT_EQ(program.wait(), exit_stopped);
  }
}

TEST(Supervise, ASecondSignalEndsItAtOnce) {
  Program program("stuck");
  ASSERT_EQ(program.line(), "stored");
  program.signal(SIGTERM);
  ASSERT_EQ(program.line(), "processed 1");
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 128 + SIGTERM);
}

TEST(Supervise, ASignalBeforeTheStartIsNotLost) {
  Program program("signalled-while-made");
  ASSERT_EQ(program.line(), "making");
  program.signal(SIGTERM);
  program.go();
  EXPECT_EQ(program.wait(), exit_stopped);
}

TEST(Supervise, TheExitStatusTellsWhetherARestartMayHelp) {
  EXPECT_EQ(Program("failing-output").wait(), exit_failed);
  EXPECT_EQ(Program("no-error-of-sluice").wait(), exit_failed);
  EXPECT_EQ(Program("no-output").wait(), exit_needs_change);
  EXPECT_EQ(Program("bad-setting").wait(), exit_needs_change);
  EXPECT_EQ(exit_status(Error(Code::fenced, {})), exit_needs_change);
  EXPECT_EQ(exit_status(Error(Code::corrupt_data, {})), exit_needs_change);
  EXPECT_EQ(exit_status(Error(Code::io_failed, {})), exit_failed);
}

}  // namespace
}  // namespace sluice
