// Fuzz target of examples/access_log/log_line.h: no input crashes it, and what it gives lies inside the line, in order,
// and can be put together again to the line it came from.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "examples/access_log/log_line.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

bool inside(std::string_view view, std::string_view line) {
  const std::less_equal<const char*> not_after;
  return view.empty() ||
         (not_after(line.data(), view.data()) && not_after(view.data() + view.size(), line.data() + line.size()));
}

void require_parts_of_request(const access_log::LogLine& line) {
  if (line.request.find(' ') == std::string_view::npos) {
    require(line.target == line.request && line.method.empty() && line.protocol.empty());
    return;
  }
  std::string request = std::string(line.method) + ' ' + std::string(line.target);
  if (!line.protocol.empty()) request += ' ' + std::string(line.protocol);
  require(request == line.request);
  require(line.protocol.empty() || line.protocol.starts_with("HTTP/"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // A copy of the exact size, so that the address sanitizer sees a read past the end.
  const std::string copy(reinterpret_cast<const char*>(data), size);
  const std::string_view text = copy;
  access_log::ParseError why = access_log::ParseError::none;
  const std::optional<access_log::LogLine> line = access_log::parse(text, &why);
  require(line.has_value() == (why == access_log::ParseError::none));
  require(!access_log::name_of(why).empty());
  if (!line) return 0;
  for (const std::string_view view :
       std::array{line->client, line->identity, line->user, line->time, line->request, line->method, line->target,
                  line->protocol, line->referrer, line->agent}) {
    require(inside(view, text));
  }
  require_parts_of_request(*line);
  require(line->status >= 100 && line->status <= 999);
  require(line->has_bytes || line->bytes == 0);
  const std::string head = std::string(line->client) + ' ' + std::string(line->identity) + ' ' +
                           std::string(line->user) + " [" + std::string(line->time) + "] \"" +
                           std::string(line->request) + "\" " + std::to_string(line->status) + ' ';
  require(text.starts_with(head));
  return 0;
}
