// expect: sluice: this type cannot be encoded: its sluice::codec<T> lacks
#include "sluice/core/codec.h"

class Url {
 public:
  explicit Url(std::string text) : text_(text) {}
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

template <>
struct sluice::codec<Url> {
  static void encode(const Url& url, sluice::Encoder& out) { out.text(url.text()); }
};

void f(const Url& url, sluice::Encoder& out) { sluice::encode(url, out); }
