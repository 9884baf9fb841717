#include "sluice/api/supervise.h"

#include <cstdio>
#include <exception>
#include <mutex>
#include <optional>

#include "sluice/runtime/process.h"

namespace sluice {
namespace {

void notify(std::string_view state) {
  try {
    notify_supervisor(state);
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: the supervisor was not told %.*s: %s\n", static_cast<int>(state.size()), state.data(),
                 error.what());
  }
}

/// Passes the first signal on to the stream, once there is one that can be stopped.
class Stopper {
 public:
  void on_signal() {
    const std::lock_guard lock(mutex_);
    asked_ = true;
    if (started_) stop();
  }
  bool asked() {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  void started(const StreamingContext& stream) {
    const std::lock_guard lock(mutex_);
    started_ = stream;
    if (asked_) stop();
  }

 private:
  void stop() {
    notify("STOPPING=1");
    started_->request_stop(true);
  }

  std::mutex mutex_;
  bool asked_ = false;
  std::optional<StreamingContext> started_;
};

}  // namespace

ExitStatus exit_status(const Error& error) {
  const int number = static_cast<int>(error.code());
  switch (error.code()) {
    case Code::fenced:
    case Code::batch_not_recorded:
    case Code::not_listening_address: return exit_needs_change;
    default: return number / 100 == 1 || number / 100 == 3 ? exit_needs_change : exit_failed;
  }
}

int supervise(const std::function<StreamingContext()>& make) {
  Stopper stopper;
  const SignalWatch watch([&stopper](int) { stopper.on_signal(); });
  try {
    const StreamingContext stream = make();
    if (stopper.asked()) return exit_stopped;
    stream.start();
    notify("READY=1");
    stopper.started(stream);
    stream.await_termination();
    return exit_stopped;
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: %s\n", error.what());
    return exit_status(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sluice: %s\n", error.what());
    return exit_failed;
  }
}

}  // namespace sluice
