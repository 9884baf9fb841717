#include "sluice/core/codec.h"

#include "sluice/runtime/errors.h"

namespace sluice {

void Encoder::fail_nesting() {
  throw Error(Code::over_limit,
              {.why = "values are nested more than " + std::to_string(nesting_max) + " deep (sluice::nesting_max)"});
}

std::uint64_t Decoder::long_varint() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    const std::uint8_t byte = u8();
    if (shift == 63 && byte > 1) break;
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) {
      if (byte == 0 && shift != 0) fail_corrupt("a varint is longer than it needs to be");
      return value;
    }
  }
  fail_corrupt("a varint has more than 64 bits");
}

void Decoder::expect_end() const {
  if (at_ != end_) fail_corrupt(std::to_string(remaining()) + " bytes follow after the last value");
}

void Decoder::fail_corrupt(std::string_view why) const {
  throw Error(Code::corrupt_data, {.why = std::string(why) + " (at byte " + std::to_string(position()) + ")"});
}

void Decoder::fail_truncated(std::uint64_t count, std::size_t element_bytes) const {
  std::string why = std::to_string(count);
  if (element_bytes > 1) why += " elements of " + std::to_string(element_bytes);
  why += " bytes are announced at byte " + std::to_string(position()) + ", but " + std::to_string(remaining()) +
         " are left";
  throw Error(Code::truncated_data, {.why = std::move(why)});
}

namespace detail {

void fail_valueless_variant() {
  throw Error(Code::bad_argument, {.why = "a std::variant that lost its value to an exception cannot be encoded"});
}

std::uint8_t decode_bool(Decoder& in) {
  const std::uint8_t byte = in.u8();
  if (byte > 1) in.fail_corrupt("a bool is neither 0 nor 1");
  return byte;
}

void decode_padding(Decoder& in, std::size_t count) {
  for (const char byte : in.bytes(count)) {
    if (byte != 0) in.fail_corrupt("padding is not 0");
  }
}

void append_number_schema(std::string& text, bool is_float, bool is_signed, std::size_t bytes) {
  text += is_float ? 'f' : is_signed ? 'i' : 'u';
  // long double is told from other 128 bit floats by its precision.
  const bool is_x87 = is_float && bytes == 16 && std::numeric_limits<long double>::digits == 64;
  text += std::to_string(is_x87 ? 80 : bytes * 8);
}

void append_ratio_schema(std::string& text, std::intmax_t numerator, std::intmax_t denominator) {
  text += ',' + std::to_string(numerator) + '/' + std::to_string(denominator);
}

void append_size_schema(std::string& text, std::size_t size) { text += ',' + std::to_string(size); }

}  // namespace detail
}  // namespace sluice
