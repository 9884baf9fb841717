#include "sluice/stream/socket_input.h"

#include <utility>

#include "sluice/stream/text_receiver.h"

namespace sluice::detail {

namespace {

class SocketTextProgram : public TextReceiverProgram {
 public:
  explicit SocketTextProgram(const SocketTextOptions& options)
      : TextReceiverProgram(options.block_interval, {options.line_bytes_max, options.too_long_counter}),
        address_(Address::tcp(options.host, options.port)),
        connect_timeout_(options.connect_timeout) {}

  void receive(TextReceiverChannel& channel) const override {
    channel.receive_from(address_, connect_timeout_);
    if (!channel.stopped()) channel.report_error(address_.text + ": the server has closed the connection");
  }

 private:
  const Address address_;
  const Duration connect_timeout_;
};

}  // namespace

std::unique_ptr<Input> make_socket_text_input(std::shared_ptr<ReceiverBudget> budget,
                                              const SocketTextOptions& options) {
  return std::make_unique<ReceiverInput>(
      ship<ReceiverProgram, SocketTextProgram>(OperatorInfo{}, SocketTextOptions(options)), std::move(budget),
      ReceiverInputOptions{Address::tcp(options.host, options.port).text, options.restart_delay,
                           options.partitions_max});
}

}  // namespace sluice::detail
