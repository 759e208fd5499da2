"""A shop with two routes."""

from flask import Flask, jsonify, request

shop = Flask(__name__)


@shop.post("/")
def order():
    return jsonify(response=f"ordered {request.get_json()['message']}")


@shop.get("/orders/<int:number>")
def show(number):
    return jsonify(number=number, colour=request.args.get("colour"))
