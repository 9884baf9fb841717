#include "sluice/stream/stdin_input.h"

#include <utility>

#include "sluice/runtime/process.h"
#include "sluice/stream/text_receiver.h"

namespace sluice::detail {

std::unique_ptr<Input> make_stdin_text_input(Engine&, std::shared_ptr<ReceiverBudget> budget,
                                             StdinTextOptions options) {
  TextReceiverOptions receiver;
  receiver.block_interval = options.block_interval;
  receiver.read = {options.line_bytes_max, options.too_long_counter};
  receiver.partitions_max = options.partitions_max;
  return make_text_receiver(std::move(budget), receiver, [](TextReceiverChannel& channel) {
    try {
      channel.receive(standard_input(channel.runtime().clock()));
    } catch (const Error& error) {
      channel.report_error(error.what());
    }
    if (!channel.stopped()) channel.end_of_input();
  });
}

}  // namespace sluice::detail
