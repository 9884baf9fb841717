// Tests of several programs, one after the other, on one checkpoint directory.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/sluice.h"
#include "sluice/testkit/hand_runtime.h"
#include "sluice/testkit/testing.h"
#include "sluice/testkit/thrown.h"

namespace sluice::testing {

using namespace std::chrono_literals;

/// A machine with a directory in it, on which one program runs after the other.
class Lives {
 public:
  Lives()
      : directory((runtime.files().stat("/dev/shm").has_value() ? "/dev/shm/sluice-lives-" : "/tmp/sluice-lives-") +
                  std::to_string(runtime.random_seed())) {}
  ~Lives() { runtime.files().remove_all(directory); }
  Lives(const Lives&) = delete;
  Lives& operator=(const Lives&) = delete;

  /// Settings of a program on it, whose operators need names as those of a real one do.
  StreamTestOptions options() {
    StreamTestOptions options;
    options.runtime = &runtime;
    options.checkpoint = directory + "/ckpt";
    options.names_needed = true;
    return options;
  }
  /// Runs a program. Its end, when `program` returns, is that of a killed one: nothing more is processed or kept.
  void live(const StreamTestOptions& options, const std::function<void(StreamTest&)>& program) {
    StreamTest t(options);
    program(t);
  }
  void live(const std::function<void(StreamTest&)>& program) { live(options(), program); }

  /// What lies in the directory, with its sizes in bytes.
  std::map<std::string, std::uint64_t> listing() {
    std::map<std::string, std::uint64_t> found;
    std::vector<std::string> left{directory};
    while (!left.empty()) {
      const std::vector<FileInfo> files = runtime.files().list(left.back()).value_or(std::vector<FileInfo>());
      left.pop_back();
      for (const FileInfo& file : files) {
        found[file.path] = file.size_bytes;
        if (file.is_directory) left.push_back(file.path);
      }
    }
    return found;
  }

  HandRuntime runtime;
  const std::string directory;
};

/// A setting from outside while it lives.
class OutsideSetting {
 public:
  OutsideSetting(std::string variable, const std::string& value) : variable_(std::move(variable)) {
    ::setenv(variable_.c_str(), value.c_str(), 1);
  }
  ~OutsideSetting() { ::unsetenv(variable_.c_str()); }
  OutsideSetting(const OutsideSetting&) = delete;
  OutsideSetting& operator=(const OutsideSetting&) = delete;

 private:
  std::string variable_;
};

/// What the error says that `call` throws; fails when it returns.
inline std::string message_of(const std::function<void()>& call) {
  const std::optional<Error> error = error_of(call);
  EXPECT_TRUE(error.has_value()) << "no error was thrown";
  return error.has_value() ? error->what() : std::string();
}

}  // namespace sluice::testing
