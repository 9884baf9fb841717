#include "sluice/stream/stdin_input.h"

#include <utility>

#include "sluice/runtime/process.h"
#include "sluice/stream/text_receiver.h"

namespace sluice::detail {

namespace {

class StdinTextProgram : public TextReceiverProgram {
 public:
  explicit StdinTextProgram(const StdinTextOptions& options)
      : TextReceiverProgram(options.block_interval, {options.line_bytes_max, options.too_long_counter}) {}

  void receive(TextReceiverChannel& channel) const override {
    try {
      channel.receive(standard_input(channel.runtime().clock()));
    } catch (const Error& error) {
      channel.report_error(error.what());
    }
    if (!channel.stopped()) channel.end_of_input();
  }
};

}  // namespace

std::unique_ptr<Input> make_stdin_text_input(std::shared_ptr<ReceiverBudget> budget, const StdinTextOptions& options) {
  ReceiverInputOptions receiver;
  receiver.partitions_max = options.partitions_max;
  receiver.in_driver = true;
  return std::make_unique<ReceiverInput>(
      ship<ReceiverProgram, StdinTextProgram>(OperatorInfo{}, StdinTextOptions(options)), std::move(budget), receiver);
}

}  // namespace sluice::detail
