// Any bytes, read as a message between driver and executors: an error that says so, or a message that is the same again
// when it is written and read once more.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "sluice/cluster/messages.h"
#include "sluice/runtime/errors.h"

namespace {

using namespace sluice::detail;

template <class M>
void read_as(std::string_view bytes) {
  try {
    const std::string once = encode_message(decode_message<M>(bytes));
    if (encode_message(decode_message<M>(once)) != once) std::abort();
  } catch (const sluice::Error& error) {
    const auto code = error.code();
    if (code != sluice::Code::corrupt_data && code != sluice::Code::truncated_data) std::abort();
  }
}

template <class... M>
void read_as_each(std::string_view bytes) {
  (read_as<M>(bytes), ...);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  read_as_each<Hello, Welcome, Peers, RunTasks, Forget, Cancel, Shutdown, StateRequest, StateReply, AskShared, Shared,
               StartService, StopService, ServiceMessage, ServiceEnded, Leave, LogLines, Heartbeat, TaskDone, Fetch,
               Fetched, StateChanges, KeepBlock, Taken, FetchBlock, FetchedBlock>(
      {reinterpret_cast<const char*>(data), size});
  return 0;
}
