#include "sluice/stream/socket_input.h"

#include <utility>

#include "sluice/stream/text_receiver.h"

namespace sluice::detail {

std::unique_ptr<Input> make_socket_text_input(Engine&, std::shared_ptr<ReceiverBudget> budget,
                                              const SocketTextOptions& options) {
  TextReceiverOptions receiver;
  receiver.argument = Address::tcp(options.host, options.port).text;
  receiver.restart_delay = options.restart_delay;
  receiver.block_interval = options.block_interval;
  receiver.read = {options.line_bytes_max, options.too_long_counter};
  receiver.partitions_max = options.partitions_max;
  return make_text_receiver(std::move(budget), receiver,
                            [address = Address::tcp(options.host, options.port),
                             timeout = options.connect_timeout](TextReceiverChannel& channel) {
                              channel.receive_from(address, timeout);
                              if (!channel.stopped())
                                channel.report_error(address.text + ": the server has closed the connection");
                            });
}

}  // namespace sluice::detail
